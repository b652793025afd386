"""Merging adapters as a user does: files in, a file out, with every method; and all that is refused."""

from __future__ import annotations

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
from bp_merge import greedy_soup
from bp_merge.adapter import Adapter, scale_of
from bp_merge.casts import FLOATS
from bp_merge.common import BpError
from bp_merge.comparison import compare
from bp_merge.engine import merge, plan_merge
from bp_merge.growing import GrowingFile
from bp_merge.lora_module import LoraModule
from bp_merge.method import get_method, method_names
from bp_merge.moments import Sketch, save_moments
from bp_merge.stfile import read_header
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import NAMES, adapter, apart, code_of, folders, identical, tree

KINDS = [np.float32, np.float16, ml_dtypes.bfloat16]


def moments_of(tmp_path, seeds, n=16):
    paths = []
    for seed in seeds:
        sketch = Sketch(n, 32)
        sketch.update(np.random.default_rng(seed).normal(size=(24, n)))
        save_moments(tmp_path / f"m{seed}.safetensors", {"x": sketch}, dict.fromkeys(NAMES, "x"))
        paths.append(tmp_path / f"m{seed}.safetensors")
    return paths


def turned(found, seed):
    """Other factors of the same changes, in f32."""
    rng, made = np.random.default_rng(seed), {}
    for name, m in found.modules.items():
        turn = rng.normal(size=(m.rank, m.rank)) + 3 * np.eye(m.rank)
        a = np.linalg.solve(turn, m.a.astype(np.float64)).astype(np.float32)
        made[name] = dataclasses.replace(m, a=a, b=(m.b @ turn).astype(np.float32))
    return dataclasses.replace(found, modules=made)


@pytest.mark.parametrize("name", method_names())
def test_every_method_from_files_to_a_file(tmp_path, name):
    """One adapter, two, other factors, another order, in memory or streamed: as the method's laws say."""
    paths = folders(tmp_path, kind=np.float32)
    loaded = [Adapter.load(p) for p in paths]
    made = get_method(name)
    more = {"moments": moments_of(tmp_path, (1, 2))} if made.needs_moments else {}
    result = merge(loaded, name, output=tmp_path / "out", **more)
    assert result.output_path == tmp_path / "out"
    assert set(result.adapter.modules) == set(NAMES)
    in_memory = merge(loaded, name, **more).adapter
    assert identical(result.adapter, in_memory)
    again = merge(loaded, name, output=tmp_path / "again", **more)
    assert tree(tmp_path / "out") == tree(tmp_path / "again")
    assert again.rank == result.rank
    if "gauge" in made.laws:
        other = merge([turned(a, i) for i, a in enumerate(loaded)], name, **more).adapter
        assert apart(in_memory, other) < 1e-5
    if "symmetric" in made.laws:
        flipped = {"moments": more["moments"][::-1]} if more else {}
        assert apart(in_memory, merge(loaded[::-1], name, **flipped).adapter) < 1e-5
    if "identity" in made.laws:
        first = {"moments": more["moments"][:1]} if more else {}
        assert apart(merge(loaded[:1], name, [1.0], **first).adapter, loaded[0]) < 1e-5
    if "idempotent" in made.laws:
        same = {"moments": more["moments"][:1] * 2} if more else {}
        assert apart(merge(loaded[:1] * 2, name, **same).adapter, loaded[0]) < 1e-5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_one_adapter_of_any_type_rank_and_scaling_is_itself(tmp_path_factory, data):
    seed, r = data.draw(st.integers(0, 10**6)), data.draw(st.integers(1, 14))
    scale = data.draw(st.sampled_from([0.125, 1.0, 2.0, 7.5]))
    one = adapter(seed, r=r, scale=scale, kind=data.draw(st.sampled_from(KINDS)))
    folder = tmp_path_factory.mktemp("one") / "out"
    result = merge([one], "linear", [1.0], output=folder)
    assert apart(result.adapter, one) < 1e-6
    assert result.rank == min(r, 12)
    assert result.discarded_energy < 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_linear_is_the_dense_sum_to_f32_rounding(seed):
    rng = np.random.default_rng(seed)
    ranks = rng.integers(1, 6, 3)
    found = [adapter(seed + i, r=int(r), kind=KINDS[i]) for i, r in enumerate(ranks)]
    weights = [float(w) for w in rng.normal(size=3)]
    result = merge(found, "linear", weights)
    for name in NAMES:
        want = sum(w * a.modules[name].delta() for w, a in zip(weights, found, strict=True))
        got = result.adapter.modules[name].delta()
        assert np.abs(got - want).max() <= 4e-7 * np.linalg.norm(want)
    assert result.rank == min(int(ranks.sum()), 12)
    assert result.discarded_energy < 1e-12


def test_rank_and_energy_and_what_they_discard():
    found = [adapter(i) for i in (1, 2, 3)]
    whole = merge(found, "linear")
    assert whole.rank == 9
    small = merge(found, "linear", rank=4)
    assert small.rank == 4
    kept = lost = 0.0
    for name in NAMES:
        s = np.linalg.svd(whole.adapter.modules[name].delta(), compute_uv=False) ** 2
        kept, lost = kept + s[:4].sum(), lost + s[4:].sum()
        assert small.by_module[name]["discarded_energy"] == pytest.approx(s[4:].sum() / s.sum(), rel=1e-5)
    assert small.discarded_energy == pytest.approx(lost / (kept + lost), rel=1e-5)
    least = merge(found, "linear", energy=0.9)
    assert least.discarded_energy <= 0.1
    assert all(
        merge(found, "linear", rank=int(r["rank"]) - 1).by_module[n]["discarded_energy"] > 0.1
        for n, r in least.by_module.items()
    )
    best = merge(found, "svd")  # cuts by its definition, and says so
    assert best.rank == 3
    assert best.discarded_energy == pytest.approx(merge(found, "linear", rank=3).discarded_energy)
    mean = merge(found, "running_mean", rank=3)
    assert mean.discarded_energy >= best.discarded_energy


def test_the_default_is_the_scaled_sum_at_full_rank():
    found = [adapter(i) for i in range(4)]
    result = merge(found)
    assert result.method == "task_arithmetic"
    want = 0.6 * sum(a.modules[NAMES[0]].delta() for a in found)
    np.testing.assert_allclose(result.adapter.modules[NAMES[0]].delta(), want, atol=1e-5)
    assert apart(merge(found, weights=[1, 1, 1, 1]).adapter, merge(found, "linear", [1] * 4).adapter) < 1e-6
    assert apart(merge(found, scale=0.25).adapter, merge(found, "linear").adapter) < 1e-6


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della"])
def test_masks_follow_the_seed(name):
    found = [adapter(i) for i in (1, 2)]
    one, same, other = (merge(found, name, seed=s).adapter for s in (0, 0, 1))
    assert identical(one, same)
    assert apart(one, other) > 0.1


def test_random_drops_have_the_sum_as_their_mean():
    found = [adapter(i, names=NAMES[:1]) for i in (1, 2)]
    runs = [merge(found, "dare_linear", [1, 1], seed=s).adapter.modules[NAMES[0]].delta() for s in range(200)]
    want = merge(found, "linear", [1, 1]).adapter.modules[NAMES[0]].delta()
    assert np.linalg.norm(np.mean(runs, 0) - want) < 0.15 * np.linalg.norm(want)


def test_torch_tensors_and_arrays_give_the_same_bits(tmp_path):
    torch = pytest.importorskip("torch")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    plain = adapter(1, kind=ml_dtypes.bfloat16)
    want = merge([plain, adapter(2)], "ties").adapter
    for device in devices:
        made = {
            n: LoraModule(
                n,
                torch.tensor(m.a.astype(np.float32)).to(torch.bfloat16).to(device).requires_grad_(),
                torch.tensor(m.b.astype(np.float32)).to(torch.bfloat16).to(device),
                m.scale,
            )
            for n, m in plain.modules.items()
        }
        tensors = Adapter(made, plain.config)
        assert identical(merge([tensors, adapter(2)], "ties").adapter, want)
        tensors.save(tmp_path / device)
        assert apart(Adapter.load(tmp_path / device), plain) < 1e-6


def test_greedy_soup_keeps_what_helps():
    target = adapter(1)
    candidates = [adapter(5), target, adapter(6)]
    made, chosen = greedy_soup(candidates, lambda a: -compare(a, target)["distance"])
    assert chosen == [1]
    assert apart(made, target) < 1e-6
    assert greedy_soup(candidates, lambda a: 0.0)[1] == [0, 1, 2]


def test_comparison():
    one, other = adapter(1), adapter(2)
    same = compare(one, turned(one, 3))
    assert same["cosine"] == pytest.approx(1)
    assert same["distance"] < 1e-5 * same["norm_a"]
    assert same["principal_angles"]["largest"] < 1e-4
    found = compare(one, other)
    x, y = (np.concatenate([a.modules[n].delta().ravel() for n in NAMES]) for a in (one, other))
    assert found["cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert found["distance"] == pytest.approx(np.linalg.norm(x - y))
    assert len(found["modules"][NAMES[0]]["principal_angles"]) == 3
    part = compare(one, adapter(1, names=NAMES[:1]))
    assert part["only_a"] == [NAMES[1]]
    assert part["distance"] == pytest.approx(np.linalg.norm(one.modules[NAMES[1]].delta()))


def test_scales_by_the_configuration():
    config = {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 16},
    }
    assert scale_of(config, "model.layers.0.self_attn.q_proj", 2) == 8
    assert scale_of(config, "model.layers.1.self_attn.q_proj", 2) == 4
    assert scale_of({**config, "use_rslora": True}, "model.layers.0.self_attn.v_proj", 4) == 4


def edited(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "code", "cause"),
    [
        ({"peft_type": "LOHA"}, "INPUT_ADAPTER_UNSUPPORTED", "LOHA"),
        ({"new_key": 3}, "INPUT_ADAPTER_UNSUPPORTED", "new_key"),
        ({"alora_invocation_tokens": [1]}, "INPUT_ADAPTER_UNSUPPORTED", "alora"),
        ({"kasa_config": {"x": 1}}, "INPUT_ADAPTER_UNSUPPORTED", "kasa"),
        ({"r": 5}, "INPUT_ADAPTER_INVALID", "rank 3"),
        ({"r": "3"}, "INPUT_ADAPTER_INVALID", "finite numbers"),
        ({"lora_alpha": 10**400}, "INPUT_ADAPTER_INVALID", "finite numbers"),
        ({"rank_pattern": {"(": 3}}, "INPUT_ADAPTER_INVALID", "regular expression"),
        ({"target_modules": [1, "q_proj"]}, "INPUT_ADAPTER_INVALID", "target_modules"),
        ({"use_dora": True}, "INPUT_ADAPTER_INVALID", "magnitudes"),
    ],
)
def test_a_configuration_that_does_not_hold_is_refused(tmp_path, changes, code, cause):
    folder = edited(adapter(1).save(tmp_path / "a"), **changes)
    with pytest.raises(BpError, match=cause) as caught:
        Adapter.load(folder)
    assert caught.value.code == code
    assert caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "init_lora_weights",
        "use_dora",
        "bias",
        "peft_type",
        "modules_to_save",
        "trainable_token_indices",
        "use_rslora",
        "other",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, JSON, max_size=3))
def test_any_configuration_loads_or_is_refused_with_a_code(tmp_path_factory, changes):
    folder = edited(adapter(1).save(tmp_path_factory.mktemp("c") / "a"), **changes)

    def use():
        found = Adapter.load(folder)
        for module in found.modules.values():
            module.delta()
        found.save(folder.parent / "b")

    assert (code_of(use) or "INPUT_").startswith("INPUT_")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_damaged_folder_is_a_coded_error(tmp_path_factory, data):
    folder = adapter(1).save(tmp_path_factory.mktemp("d") / "a")
    file = folder / data.draw(st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]))
    raw = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    file.write_bytes(raw[:place] if data.draw(st.booleans()) else raw[:place] + b"\xff" + raw[place + 1 :])
    found = code_of(lambda: [m.delta() for m in Adapter.load(folder).modules.values()])
    assert (found or "INPUT_").startswith("INPUT_")


def broken(tmp_path, case):
    first = adapter(1).save(tmp_path / "first")
    second = adapter(2)
    if case == "nan":
        made = tmp_path / "bad"
        with pytest.raises(BpError, match="NaN"):
            second.modules[NAMES[0]].a[0, 0] = np.nan
            second.save(made)
        second.modules[NAMES[0]].a[0, 0] = 0
        second.save(made)
        file = made / "adapter_model.safetensors"
        info = next(i for n, i in read_header(file)[0].items() if n.endswith("lora_A.weight"))
        raw = bytearray(file.read_bytes())
        raw[info.offset : info.offset + 4] = np.float32(np.nan).tobytes()
        file.write_bytes(raw)
        return [first, made]
    if case == "truncated":
        made = second.save(tmp_path / "bad")
        file = made / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        return [first, made]
    more = {"shape": {"n": 17}, "module": {"names": NAMES[:1]}}[case]
    return [first, adapter(2, **more).save(tmp_path / "bad")]


@pytest.mark.parametrize(
    ("case", "code", "cause"),
    [
        ("nan", "INPUT_NOT_FINITE", "NaN"),
        ("truncated", "INPUT_FILE_INVALID", "bytes"),
        ("shape", "INPUT_ADAPTERS_MISMATCH", "different shapes"),
        ("module", "INPUT_ADAPTERS_MISMATCH", "lacks 1 modules"),
    ],
)
def test_bad_adapters_leave_nothing_behind(tmp_path, case, code, cause):
    paths = broken(tmp_path, case)
    before = tree(tmp_path)
    with pytest.raises(BpError, match=cause) as caught:
        merge([Adapter.load(p) for p in paths], "linear", output=tmp_path / "out")
    assert caught.value.code == code
    assert caught.value.hint
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": [1]},
        {"weights": [1, float("nan")]},
        {"rank": 0},
        {"rank": 2, "energy": 0.5},
        {"energy": 1.5},
        {"missing": "skip"},
        {"density": 0.5},
        {"method": "linaer"},
        {"method": "ties", "density": 2},
        {"method": "regmean"},
        {"method": "wudi", "weights": [1, -1]},
        {"method": "slerp", "weights": [1, -1]},
        {"moments": ["x"]},
    ],
    ids=str,
)
def test_wrong_arguments_are_told_before_anything_is_written(tmp_path, arguments):
    found = [adapter(1), adapter(2)]
    for run in (merge, plan_merge):
        with pytest.raises(BpError) as caught:
            run(found, **{"method": "linear", **arguments}, output=tmp_path / "out")
            if arguments.get("method") in ("wudi", "slerp"):
                merge(found, **arguments)  # only the values of a module show it
        assert caught.value.code == "INPUT_VALIDATION_FAILED"
        assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_touched(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BpError) as caught:
        merge([adapter(1)], output=out)
    assert caught.value.code == "INPUT_PATH_EXISTS"
    assert tree(tmp_path) == {"out/mine.txt": b"keep"}


def test_the_plan_is_an_upper_bound(tmp_path):
    found = [adapter(i) for i in (1, 2)]
    plan = plan_merge(found, "linear", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = merge(found, "linear", output=tmp_path / "out")
    assert plan["rank"] >= result.rank
    assert plan["modules"] == result.modules
    assert plan["disk_mb"] * 1e6 >= (tmp_path / "out" / "adapter_model.safetensors").stat().st_size - 4096


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.lists(st.integers(0, 4), max_size=3), max_size=5))
def test_a_growing_file_is_a_safetensors_file(tmp_path_factory, spec):
    from safetensors.numpy import load_file

    spec.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("g") / "a.safetensors"
    made = {n: np.random.default_rng(0).normal(size=s).astype(np.float32) for n, s in spec.items()}
    with GrowingFile(path, [*made, "never written"]) as file:
        for name, values in made.items():
            file.add(name, values)
    back = load_file(path)
    assert set(back) == set(made)
    assert all(np.array_equal(back[n], made[n]) and back[n].shape == made[n].shape for n in made)
    assert {i.dtype for i in read_header(path)[0].values()} <= set(FLOATS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="announced"), GrowingFile(path, ["a"]) as file:
        file.add("b", np.zeros(1))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
