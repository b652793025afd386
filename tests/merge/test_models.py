"""Merging checkpoints: each method against a dense reference in f64, independent of blocks and order."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from bp_merge import kernels, models
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from bp_merge.models import METHODS, merge_models
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

SHAPES = {"a.weight": (24, 33), "b.weight": (40, 16), "b.bias": (7,)}


def make(folder, seed, base=None, change=None, dtype=np.float32):
    rng = np.random.default_rng(seed)
    tensors = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    if base is not None:
        tensors = {n: base[n] + 0.1 * t for n, t in tensors.items()}
    folder.mkdir()
    stored = {n: t.astype(dtype) for n, t in tensors.items()}
    stored["ids"] = np.arange(5)
    save_file(stored | (change or {}), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "vocab_size": 9}))
    vocab = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<s>", "id": 2}]}
    (folder / "tokenizer.json").write_text(json.dumps(vocab))
    return {n: t.astype(np.float32) for n, t in stored.items() if n != "ids"}


@pytest.fixture
def three(tmp_path):
    base = make(tmp_path / "base", 0)
    return tmp_path, base, [make(tmp_path / f"m{i}", i, base) for i in (1, 2)]


def run(folder, method, out="out", order=(1, 2), **more):
    merge_models(
        folder / "base", [folder / f"m{i}" for i in order], output=folder / out, method=method, **more
    )
    with Checkpoint.open(folder / out) as found:
        assert np.array_equal(found.read_raw("ids"), np.arange(5))
        return {n: found.read(n) for n in SHAPES}


def trim(d, low, high=np.inf):
    return np.where((np.abs(d) >= low) & (np.abs(d) <= high), d, 0)


def dense(method, w, xs):
    ds = [x.astype(np.float64) - w for x in xs]
    if method == "linear":
        return sum(xs) / 2
    if method == "task_arithmetic":
        return w + min(1, 1.2 / np.sqrt(2)) * sum(ds)
    if method == "slerp":
        x, y = (v.astype(np.float64).ravel() for v in xs)
        angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        return (np.sin(0.5 * angle) / np.sin(angle) * (x + y)).reshape(w.shape)
    magnitudes = [np.sort(np.abs(x - w).ravel())[::-1] for x in xs]
    n = w.size
    if method == "breadcrumbs":
        top, keep = int(0.01 * n), round(0.9 * n)
        parts = [
            trim(d, m[min(n, top + keep) - 1] * (1 - 1e-6), m[top] * (1 + 1e-6) if top else np.inf)
            for d, m in zip(ds, magnitudes, strict=False)
        ]
        return w + min(1, 1.2 / np.sqrt(2)) * sum(parts)
    parts = np.stack(
        [trim(d, m[max(1, round(0.2 * n)) - 1] * (1 - 1e-7)) for d, m in zip(ds, magnitudes, strict=False)]
    )
    sign = np.where(parts.sum(0) >= 0, 1, -1)
    agrees = parts * sign > 0
    return w + (parts * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "breadcrumbs"])
def test_equals_the_dense_reference(three, method):
    folder, base, tuned = three
    got = run(folder, method)
    for name in SHAPES:
        want = dense(method, base[name], [m[name] for m in tuned])
        assert np.abs(got[name] - want).max() < 2e-6, name


@pytest.mark.parametrize("method", METHODS)
def test_blocks_and_order_do_not_matter(three, method, monkeypatch):
    folder, _, _ = three
    one = run(folder, method)
    other = run(folder, method, "other", (2, 1))
    monkeypatch.setattr(models, "BLOCK", 50)
    small = run(folder, method, "small")
    for name in SHAPES:
        assert np.abs(one[name] - other[name]).max() < 1e-6
        assert np.abs(one[name] - small[name]).max() < 1e-6


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della"])
def test_random_methods_keep_the_mean(three, method):
    folder, base, tuned = three
    one, again, other = (run(folder, method, str(i), seed=s, weights=[1, 1]) for i, s in enumerate((0, 0, 1)))
    name = "a.weight"
    assert np.array_equal(one[name], again[name])
    assert not np.array_equal(one[name], other[name])
    if method == "dare_linear":
        runs = [run(folder, method, f"r{i}", seed=i, weights=[1, 1])[name] for i in range(60)]
        want = tuned[0][name] + tuned[1][name] - base[name]
        assert np.abs(np.mean(runs, 0) - want).mean() < 0.02


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.integers(1, 9),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_thresholds_are_exact(values, cut, data):
    x = np.array(values, np.float32)
    rank = data.draw(st.integers(0, len(x) - 1))
    parts = [x[i : i + cut] for i in range(0, len(x), cut)]
    assert kernels.thresholds(lambda: parts, [rank, 0]) == [
        float(np.sort(np.abs(x))[::-1][rank]),
        float(np.abs(x).max()),
    ]


@given(st.integers(0, 200), st.integers(0, 90))
def test_draws_do_not_depend_on_the_cut(start, count):
    key = kernels.key_of(3, "a")
    assert np.array_equal(kernels.draws(key, start, count), kernels.draws(key, 0, 300)[start : start + count])


def test_examples_of_the_docstrings():
    parts = [np.float32(x) for x in ([3, -1, 0], [1, -2, 0], [-2, 2, 4])]
    assert kernels.elect(parts, [1, 1, 1]).tolist() == [2, -1.5, 4]
    keep = kernels.della_keep(np.float32([[0.1, -3, 2]]), 0.5, 0.2)
    assert np.allclose(keep, [[0.4, 0.6, 0.5]])


def test_equal_models_are_a_fixed_point(tmp_path):
    base = make(tmp_path / "base", 0, dtype=ml_dtypes.bfloat16)
    for i in (1, 2):
        make(tmp_path / f"m{i}", 5, base, dtype=ml_dtypes.bfloat16)
    with Checkpoint.open(tmp_path / "m1") as m:
        want = {n: m.read(n) for n in SHAPES}
    for method, more in (("linear", {}), ("slerp", {}), ("ties", {"density": 1.0})):
        got = run(tmp_path, method, method, **more)
        assert all(np.array_equal(got[n], want[n]) for n in SHAPES), method


MISMATCHES = {
    "shape": ({"change": {"a.weight": np.ones((3, 3), np.float32)}}, None, "shape of a.weight"),
    "tensor": ({"change": {"c.weight": np.ones(3, np.float32)}}, None, "tensor c.weight"),
    "config": ({}, ("config.json", {"model_type": "y"}), "model_type"),
    "vocabulary": ({}, ("config.json", {"vocab_size": 10}), "vocab_size"),
    "tokenizer": ({}, ("tokenizer.json", {"model": {"vocab": {"b": 0}}}), "tokenizers"),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_models_that_do_not_fit_are_refused(three, case):
    folder, base, _ = three
    more, file, cause = MISMATCHES[case]
    make(folder / "m3", 3, base, **more)
    if file:
        (folder / "m3" / file[0]).write_text(json.dumps(file[1]))
    with pytest.raises(BpError, match=cause) as caught:
        run(folder, "linear", order=(1, 3))
    assert caught.value.code == "INPUT_MODELS_MISMATCH"
    assert not (folder / "out").exists()


def test_wrong_settings_and_bad_values(three):
    folder, base, _ = three
    for method, more in (
        ("nonsense", {}),
        ("linear", {"weights": [1]}),
        ("ties", {"density": 0}),
        ("della", {"density": 0.99, "epsilon": 0.2}),
        ("breadcrumbs", {"gamma": 0.5}),
        ("linear", {"density": 0.5}),
        ("ties", {"space": "core"}),
        ("slerp", {"weights": [1, -1]}),
        ("slerp", {"t": 2}),
        ("slerp", {"order": (1, 2, 1)}),
        ("linear", {"order": (1,)}),
    ):
        with pytest.raises(BpError) as caught:
            run(folder, method, **more)
        assert caught.value.code == "INPUT_VALIDATION_FAILED"
    make(folder / "m3", 3, base, change={"a.weight": np.full((24, 33), np.nan, np.float32)})
    with pytest.raises(BpError, match=r"a\.weight") as caught:
        run(folder, "linear", order=(1, 3))
    assert caught.value.code == "INPUT_NOT_FINITE"
    assert not (folder / "out").exists()
