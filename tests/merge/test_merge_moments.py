"""Input moments: what a sketch keeps, the file any trainer can write, and RegMean against the full Gram matrices."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bp_merge.common import BpError
from bp_merge.engine import merge
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, get_method
from bp_merge.moments import Moments, Sketch, save_moments
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_adapters import NAMES, adapter, code_of

N = 16


def inputs(seed, rows=200, n=N):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, n)) @ rng.normal(size=(n, n))


def dense_regmean(deltas, grams, alpha, ridge):
    """(Σ ΔᵢGᵢ)(Σ Gᵢ)⁻¹ as the paper has it: off-diagonal × alpha, and the ridge on the diagonal."""
    shaped = [
        alpha * g + (1 - alpha) * np.diag(np.diag(g)) + ridge * np.diag(g).mean() * np.eye(len(g))
        for g in grams
    ]
    left = sum(d @ g for d, g in zip(deltas, shaped, strict=True))
    return np.linalg.solve(sum(shaped), left.T).T


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.9, 1.0]))
def test_woodbury_is_the_dense_solution(seed, alpha):
    rng = np.random.default_rng(seed)
    parts = [LowRank(rng.normal(size=(9, 2)), rng.normal(size=(2, N))) for _ in range(3)]
    xs = [inputs(seed + i, rows=20) for i in range(3)]
    context = Context(module="m", keys=("0", "1", "2"), moments=tuple((x, (x**2).sum(0)) for x in xs))
    found = get_method("regmean")(parts, None, context, alpha=alpha).dense()
    want = dense_regmean([p.dense() for p in parts], [x.T @ x for x in xs], alpha, 1e-3)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_a_sketch_is_exact_for_as_many_tokens_as_rows_and_unbiased_beyond():
    x = inputs(0)
    gram = x.T @ x
    for rows, used in ((len(x), x), (8, x[:8])):
        exact = Sketch(N, rows)
        exact.update(used.reshape(4, -1, N))
        np.testing.assert_allclose(exact.sketch.T @ exact.sketch, used.T @ used, rtol=1e-5, atol=1e-3)
        assert exact.sketch.shape[0] <= rows
    found = []
    for seed in range(300):
        one = Sketch(N, 8, seed)
        one.update(x)
        found.append(one.sums.T @ one.sums)
    assert np.linalg.norm(np.mean(found, 0) - gram) < 0.05 * np.linalg.norm(gram)
    np.testing.assert_allclose(one.diag, np.diag(gram), rtol=1e-5)


def test_a_sketch_keeps_the_strongest_directions():
    rng = np.random.default_rng(0)
    strong = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 64)) + 0.01 * rng.normal(size=(2000, 64))
    small = Sketch(64, 8)
    small.update(strong)
    gram = strong.T @ strong
    basis = np.linalg.svd(small.sketch)[2][:4]
    assert np.linalg.norm(gram - gram @ basis.T @ basis) < 1e-2 * np.linalg.norm(gram)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=6))
def test_batches_do_not_matter(sizes):
    x = inputs(1, rows=sum(sizes))
    whole, parts = Sketch(N, 8), Sketch(N, 8)
    whole.update(x)
    for piece in np.split(x, np.cumsum(sizes)[:-1]):
        parts.update(piece)
    np.testing.assert_allclose(parts.sums, whole.sums, atol=1e-4)
    np.testing.assert_allclose(parts.diag, whole.diag, rtol=1e-5)


def stored(path, seeds=(1,), **more):
    sketches = {}
    for seed in seeds:
        sketches[f"in{seed}"] = Sketch(N, 64)
        sketches[f"in{seed}"].update(inputs(seed))
    save_moments(path, sketches, dict.fromkeys(NAMES, f"in{seeds[0]}"))
    return path


def test_modules_of_one_input_share_their_moments(tmp_path):
    path = stored(tmp_path / "m.safetensors")
    moments = Moments.load(path)
    for name in NAMES:
        sketch, diag = moments.read(name, N)
        assert (sketch.shape, diag.shape) == ((N, N), (N,))
    assert path.stat().st_size < (N + 1) * N * 4 + 600  # once for both


def test_regmean_keeps_each_task_s_outputs_on_its_own_inputs(tmp_path):
    """Tasks whose inputs span different halves: RegMean keeps both, the mean half of each."""
    rng = np.random.default_rng(0)
    xs = [np.pad(rng.normal(size=(100, N // 2)), ((0, 0), side)) for side in ((0, N // 2), (N // 2, 0))]
    found, paths = [adapter(1), adapter(2)], []
    for i, x in enumerate(xs):
        sketch = Sketch(N, 128)
        sketch.update(x)
        save_moments(tmp_path / f"{i}.safetensors", {"x": sketch}, dict.fromkeys(NAMES, "x"))
        paths.append(tmp_path / f"{i}.safetensors")
    kept, mean = (merge(found, m, **more) for m, more in (("regmean", {"moments": paths}), ("linear", {})))

    def error(result, i):
        want = xs[i] @ found[i].modules[NAMES[0]].delta().T
        got = xs[i] @ result.adapter.modules[NAMES[0]].delta().T
        return np.linalg.norm(got - want) / np.linalg.norm(want)

    for i in (0, 1):
        assert error(kept, i) < 0.05
        assert error(mean, i) > 0.4


def raw(path, metadata, **tensors):
    good = {"x.sketch": np.ones((4, N), np.float32), "x.diag": np.ones(N, np.float32)}
    save_file({**good, **tensors}, path, metadata)
    return path


META = {"format": "bp-moments", "version": "1", "modules": json.dumps(dict.fromkeys(NAMES, "x"))}


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [
        ({"format": "other"}, {}),
        ({"version": "2"}, {}),
        ({"modules": "{"}, {}),
        ({"modules": "[1]"}, {}),
        ({"modules": '{"a": 1}'}, {}),
        ({"modules": json.dumps(dict.fromkeys(NAMES, "y"))}, {}),
        ({}, {"x.sketch": np.ones((4, N + 1), np.float32)}),
        ({}, {"x.sketch": np.ones(N, np.float32)}),
        ({}, {"x.diag": np.ones(3, np.float32)}),
        ({}, {"x.diag": -np.ones(N, np.float32)}),
        ({}, {"x.sketch": np.full((4, N), np.nan, np.float32)}),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, metadata, tensors):
    path = raw(tmp_path / "m.safetensors", {**META, **metadata}, **tensors)
    with pytest.raises(BpError) as caught:
        merge([adapter(1)], "regmean", moments=[path], output=tmp_path / "out")
    assert caught.value.code == "INPUT_MOMENTS_INVALID"
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_trainer_is_read(tmp_path):
    path = raw(tmp_path / "m.safetensors", META)
    one = adapter(1)
    found = merge([one], "regmean", moments=[path]).adapter
    np.testing.assert_allclose(found.modules[NAMES[0]].delta(), one.modules[NAMES[0]].delta(), atol=1e-5)


def test_inputs_that_are_not_finite_are_refused():
    with pytest.raises(BpError) as caught:
        Sketch(3).update(np.array([[1.0, np.nan, 0.0]]))
    assert caught.value.code == "INPUT_NOT_FINITE"
    with pytest.raises(ValueError, match="no sketch"):
        save_moments("unwritten", {}, {"a": "b"})


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damage_is_a_coded_error(tmp_path_factory, data):
    path = stored(tmp_path_factory.mktemp("m") / "m.safetensors")
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(content[:place] if cut else content[:place] + b"\x7f" + content[place + 1 :])
    found = code_of(lambda: Moments.load(path).read(NAMES[0], N))
    assert found in (None, "INPUT_FILE_INVALID", "INPUT_MOMENTS_INVALID")
