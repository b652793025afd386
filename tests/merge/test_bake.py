"""Baking: the sum is exact, the layout is the base's, and what cannot be merged is refused untouched."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import pytest
from bp_merge.adapter import Adapter
from bp_merge.bake import bake, plan_bake
from bp_merge.baked import Baked
from bp_merge.casts import from_f32, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from bp_merge.lora_module import LoraModule
from safetensors.numpy import save_file

BF16 = ml_dtypes.bfloat16
V, H, Q = 40, 24, 16
MODULES = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(2) for p in "qv"]


def normal(rng, *shape, scale=1.0, dtype=np.float32):
    return (rng.standard_normal(shape) * scale).astype(dtype)


@pytest.fixture
def base(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "model.embed_tokens.weight": normal(rng, V, H, dtype=BF16),
        "lm_head.weight": normal(rng, V, H, dtype=BF16),
        "model.norm.weight": normal(rng, H, dtype=BF16),
        **{f"{m}.weight": normal(rng, Q, H, dtype=BF16) for m in MODULES},
        **{f"{m}.bias": normal(rng, Q, dtype=BF16) for m in MODULES},
    }
    folder = tmp_path / "base"
    folder.mkdir()
    names = sorted(tensors)
    places = {
        n: f"model-0000{1 if 'layers.1' in n else 2 if 'layers.0' in n else 3}-of-00003.safetensors"
        for n in names
    }
    for file in sorted(set(places.values())):
        save_file({n: tensors[n] for n in names if places[n] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("free")
    (folder / "optimizer.pt").write_bytes(b"x")
    return folder


def lora(modules=MODULES[:2], r=3, scale=0.5, seed=1, shape=(Q, H), **more):
    rng = np.random.default_rng(seed)
    made = {
        m: LoraModule(m, normal(rng, r, shape[1]), normal(rng, shape[0], r), scale, **more) for m in modules
    }
    return Adapter(made, {"peft_type": "LORA", "lora_bias": "bias" in more, "use_dora": "magnitude" in more})


def delta(adapter, name):
    m = adapter.modules[name.removesuffix(".weight")]
    return m.scale * (to_f32(m.b) @ to_f32(m.a))


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_sum_is_rounded_once_and_the_rest_is_the_same(base, tmp_path):
    adapter, other = lora(), lora(seed=2, r=5)
    before = files(base)
    result = bake(base, [adapter, (other, -0.25)], tmp_path / "out")
    with Checkpoint.open(base) as old, Checkpoint.open(tmp_path / "out") as new:
        assert old.names == new.names
        for name in old.names:
            want = old.read(name)
            if name.removesuffix(".weight") in adapter.modules:
                exact = want.astype(np.float64) + delta(adapter, name) - 0.25 * delta(other, name)
                assert np.abs(new.read(name) - exact).max() <= np.abs(exact).max() * 2**-8
                assert np.mean(new.read_raw(name) == from_f32(exact.astype(np.float32), "BF16")) > 0.99
            else:
                assert new.read_raw(name).tobytes() == old.read_raw(name).tobytes()
    got = files(tmp_path / "out")
    assert files(base) == before
    for same in (
        "model-00001-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "config.json",
        "tokenizer.json",
    ):
        assert got[same] == before[same], same
    assert got["model.safetensors.index.json"] == before["model.safetensors.index.json"]
    touched = "model-00002-of-00003.safetensors"
    length = 8 + int.from_bytes(before[touched][:8], "little")
    assert got[touched][:length] == before[touched][:length]
    assert "optimizer.pt" not in got
    assert "LICENSE" in got
    assert "bake.json" in got
    assert ".unfinished.json" not in got
    assert result.touched == 2
    assert result.survival.coefficient == pytest.approx(1, abs=0.01)
    manifest = json.loads(got["bake.json"])
    assert manifest["files"][touched]["sha256"] == result.files[touched]
    bake(base, [adapter, (other, -0.25)], tmp_path / "again")
    assert files(tmp_path / "again") == got


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_target_dtype(base, tmp_path, dtype, kind):
    adapter = lora()
    plan = plan_bake(base, [adapter], tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()
    result = bake(base, [adapter], tmp_path / "out", dtype=dtype)
    assert (
        plan.nbytes
        == result.nbytes
        == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.safetensors"))
    )
    with Checkpoint.open(base) as b, Checkpoint.open(tmp_path / "out") as out:
        baked = Baked(b, [adapter])
        for name in out.names:
            assert out.info(name).dtype == kind
            assert out.read_raw(name).tobytes() == from_f32(baked.read(name), kind).tobytes()
        assert out.config["dtype"] == {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[kind]


def test_rows_have_the_same_bits_in_any_range(base, monkeypatch):
    monkeypatch.setattr("bp_merge.baked.TILE", 5 * H)
    with Checkpoint.open(base) as b:
        baked = Baked(b, [lora()])
        name = f"{MODULES[0]}.weight"
        whole = baked.read(name)
        for low in range(Q):
            for high in range(low, Q + 1):
                assert np.array_equal(baked.read(name, low, high), whole[low:high])
        assert baked.touched == [f"{m}.weight" for m in MODULES[:2]]


def test_dora_fan_in_fan_out_embedding_bias_rows_and_whole_tensors(base):
    rng = np.random.default_rng(5)
    square = {"model.layers.0.self_attn.q_proj": (H, Q)}
    magnitude = np.abs(normal(rng, Q))
    with Checkpoint.open(base) as b:
        adapter = lora(MODULES[:1], magnitude=magnitude)
        name = f"{MODULES[0]}.weight"
        full = b.read(name) + delta(adapter, name)
        want = full * (magnitude / np.linalg.norm(full, axis=1))[:, None]
        assert np.allclose(Baked(b, [adapter]).read(name), want, rtol=1e-5, atol=1e-6)
        m = LoraModule(
            MODULES[0],
            normal(rng, 2, Q),
            normal(rng, H, 2),
            2.0,
            magnitude=np.abs(normal(rng, H)),
        )
        full = b.read(name) + 2 * (m.b @ m.a).T
        want = full * (m.magnitude / np.linalg.norm(full, axis=0))
        assert np.allclose(
            Baked(b, [Adapter({m.name: m}, {"fan_in_fan_out": True})]).read(name, 3, 9),
            want[3:9],
            rtol=1e-5,
            atol=1e-6,
        )
        e = LoraModule("model.embed_tokens", normal(rng, 2, V), normal(rng, H, 2), 2.0, embedding=True)
        want = b.read("model.embed_tokens.weight") + 2 * (e.b @ e.a).T
        assert np.allclose(
            Baked(b, [Adapter({e.name: e}, {})]).read("model.embed_tokens.weight"), want, atol=1e-6
        )
        bias = normal(rng, Q)
        got = Baked(b, [lora(MODULES[:1], bias=bias)]).read(f"{MODULES[0]}.bias")
        assert np.allclose(got, b.read(f"{MODULES[0]}.bias") + 0.5 * bias)
        rows = normal(rng, 2, H)
        given = Adapter(
            {},
            {"trainable_token_indices": [7, 3]},
            tokens={"model.embed_tokens": rows},
            full={"model.norm.weight": rows[0]},
        )
        baked = Baked(b, [given])
        assert np.array_equal(baked.read("model.embed_tokens.weight")[[7, 3]], rows)
        assert np.array_equal(
            baked.read("model.embed_tokens.weight", 8), b.read("model.embed_tokens.weight", 8)
        )
        assert np.array_equal(baked.read("model.norm.weight"), rows[0])
        assert square


REFUSED = {
    "missing module": (lora(["model.layers.9.self_attn.q_proj"]), "INPUT_WRONG_BASE", "layers.9"),
    "shape": (lora(shape=(Q, H + 1)), "INPUT_WRONG_BASE", "16 × 25"),
    "whole tensor of another shape": (
        Adapter({}, {}, full={"lm_head.weight": np.ones((2, 2))}),
        "INPUT_WRONG_BASE",
        "lm_head",
    ),
    "row outside": (
        Adapter({}, {"trainable_token_indices": [V]}, tokens={"lm_head": np.ones((1, H))}),
        "INPUT_EMBEDDINGS_MISSING",
        "rows",
    ),
    "magnitudes": (lora(magnitude=np.ones(3)), "INPUT_WRONG_BASE", "magnitudes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_base_is_refused_untouched(base, tmp_path, case):
    adapter, code, cause = REFUSED[case]
    with pytest.raises(BpError, match=cause) as caught:
        bake(base, [adapter], tmp_path / "out")
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


def test_sums_that_do_not_exist_are_refused(base, tmp_path):
    dora = lora(MODULES[:1], magnitude=np.ones(Q, np.float32))
    whole = Adapter({}, {}, full={"model.norm.weight": np.ones(H)})
    for adapters in ([dora, lora()], [lora(), dora], [(dora, 0.5)], [whole, lora()], [(whole, 0.5)]):
        with pytest.raises(BpError) as caught:
            bake(base, adapters, tmp_path / "out")
        assert caught.value.code == "INPUT_ADAPTER_UNSUPPORTED"
    assert not (tmp_path / "out").exists()


def test_values_that_cannot_be_written_leave_nothing(base, tmp_path):
    with pytest.raises(BpError, match="f16 ends at 65504") as caught:
        bake(base, [lora(scale=1e5)], tmp_path / "out", dtype="f16")
    assert (caught.value.code, caught.value.exit_code) == ("RUNTIME_OVERFLOW", 2)
    assert not (tmp_path / "out").exists()
    broken = lora()
    broken.modules[MODULES[0]].a[0, 0] = np.nan
    with pytest.raises(BpError, match=MODULES[0]) as caught:
        bake(base, [broken], tmp_path / "out")
    assert caught.value.code == "INPUT_NOT_FINITE"
    assert not (tmp_path / "out").exists()


def test_quantised_base_and_occupied_output(base, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    for target in (tmp_path / "out", tmp_path / "out" / "mine.txt", base):
        with pytest.raises(BpError) as caught:
            bake(base, [lora()], target)
        assert caught.value.code == "INPUT_PATH_EXISTS"
    assert files(tmp_path / "out") == {"mine.txt": b"keep"}
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(BpError, match="gptq") as caught:
        bake(base, [lora()], tmp_path / "new")
    assert caught.value.code == "INPUT_QUANTIZED_BASE"
    with pytest.raises(BpError) as caught:
        bake(base, [lora()], tmp_path / "new", dtype="int4")
    assert caught.value.code in ("INPUT_VALIDATION_FAILED", "INPUT_QUANTIZED_BASE")


def test_small_changes_are_warned_of(base, tmp_path):
    result = bake(base, [lora(scale=1e-4)], tmp_path / "out")
    assert result.survival.ratio < 3e-3
    assert result.survival.coefficient < 0.8
    assert "bf16 keeps" in result.warnings[0]
    full = bake(base, [lora(scale=1e-4)], tmp_path / "full", dtype="f32")
    assert full.survival.coefficient == pytest.approx(1, abs=1e-3)
    assert not full.warnings


def tie(base, head=False):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    with Checkpoint.open(base) as b:
        tensors = {n: b.read_raw(n) for n in b.names if n != "lm_head.weight"}
    for p in base.glob("model*"):
        p.unlink()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_one_side_of_a_tie(base, tmp_path, module):
    tie(base)
    rng = np.random.default_rng(1)
    if module == "lm_head":
        adapter = lora([module], shape=(V, H))
        change = adapter.modules[module].scale * adapter.modules[module].b @ adapter.modules[module].a
    else:
        e = LoraModule(module, normal(rng, 2, V), normal(rng, H, 2), 1.0, embedding=True)
        adapter, change = Adapter({module: e}, {}), (e.b @ e.a).T
    with pytest.raises(BpError) as caught:
        bake(base, [adapter], tmp_path / "out")
    assert caught.value.code == "INPUT_TIED_EMBEDDING"
    result = bake(base, [adapter], tmp_path / "out", untie=True, dtype="f32")
    assert "own" in result.notes[0]
    with Checkpoint.open(base) as old, Checkpoint.open(tmp_path / "out") as new:
        assert new.config["tie_word_embeddings"] is False
        plain = old.read("model.embed_tokens.weight")
        sides = {"lm_head.weight": plain, "model.embed_tokens.weight": plain}
        sides[f"{module}.weight"] = plain + change
        for name, want in sides.items():
            assert np.allclose(new.read(name), want, atol=1e-5), name
    rows = Adapter(
        {},
        {"trainable_token_indices": {"embed_tokens": [3]}},
        tokens={"model.embed_tokens": np.ones((1, H), np.float32)},
    )
    bake(base, [rows], tmp_path / "rows")
    with Checkpoint.open(tmp_path / "rows") as new:
        assert "lm_head.weight" not in new
        assert new.config["tie_word_embeddings"] is True


def test_another_prefix_on_disk(base, tmp_path):
    renamed = [f"base.{m}" for m in MODULES]
    result = bake(base, [lora(renamed)], tmp_path / "out")
    assert result.touched == len(MODULES)
    assert "base." in result.notes[0]
    mixed = Adapter({**lora(renamed[:1]).modules, **lora(["other.proj"]).modules}, {})
    with pytest.raises(BpError, match=r"other\.proj"):
        bake(base, [mixed], tmp_path / "mixed")


def test_adapter_tokenizer_replaces_the_base_whole(base, tmp_path):
    (base / "chat_template.jinja").write_text("old")
    folder = tmp_path / "adapter"
    Adapter(lora().modules, {}).save(folder)
    (folder / "tokenizer.json").write_text('{"new": 1}')
    adapter = Adapter.load(folder)
    bake(base, [adapter], tmp_path / "out")
    got = files(tmp_path / "out")
    assert got["tokenizer.json"] == b'{"new": 1}'
    assert "chat_template.jinja" not in got


CHILD = """
import sys
from bp_merge.adapter import Adapter
from bp_merge.bake import bake
bake(sys.argv[1], [Adapter.load(sys.argv[2])], sys.argv[3], dtype="f32")
"""


def killed(base, adapter, output, wait):
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(base), str(adapter), str(output)])
    until = time.monotonic() + 20
    while time.monotonic() < until and child.poll() is None and not wait():
        time.sleep(0.0005)
    child.kill()
    child.wait()


def test_a_kill_after_a_shard_is_resumed_to_the_same_bytes(base, tmp_path):
    folder, out = tmp_path / "adapter", tmp_path / "out"
    lora().save(folder)
    bake(base, [Adapter.load(folder)], tmp_path / "straight", dtype="f32")
    first = out / "model-00001-of-00003.safetensors"
    killed(base, folder, out, first.exists)
    if (out / "bake.json").exists():  # it was faster than the signal: make the same state by hand
        pytest.skip("the run ended before the kill")
    with pytest.raises(BpError) as caught:
        bake(base, [Adapter.load(folder)], out, dtype="bf16")
    assert caught.value.code == "STATE_RESUME_MISMATCH"
    result = bake(base, [Adapter.load(folder)], out, dtype="f32")
    assert set(result.reused) <= set(result.files)
    assert files(out) == files(tmp_path / "straight")


def test_a_damaged_finished_shard_is_written_again(base, tmp_path):
    straight = bake(base, [lora()], tmp_path / "straight")
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        bake(base, [lora()], out, progress=stop_after("model-00002-of-00003.safetensors", out))
    damaged = out / "model-00001-of-00003.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    result = bake(base, [lora()], out)
    assert list(result.reused) == ["model-00002-of-00003.safetensors"]
    assert dict(result.files) == dict(straight.files)
    assert files(out) == files(tmp_path / "straight")


def stop_after(name, out):
    def progress(done, total):
        if (out / name).exists():
            raise RuntimeError("stopped")

    return progress


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_kills_at_random_points(base, tmp_path, seed):
    folder, out = tmp_path / "adapter", tmp_path / "out"
    lora().save(folder)
    bake(base, [Adapter.load(folder)], tmp_path / "straight", dtype="f32")
    rng = np.random.default_rng(seed)
    for _ in range(3):
        begun = time.monotonic()
        limit = rng.uniform(0.0, 0.05)
        started = []

        def wait(started=started, limit=limit):
            if out.exists() and not started:
                started.append(time.monotonic())
            return bool(started) and time.monotonic() - started[0] > limit

        if (out / "bake.json").exists():
            break
        killed(base, folder, out, wait)
        assert begun
    if not (out / "bake.json").exists() or (out / ".unfinished.json").exists():
        bake(base, [Adapter.load(folder)], out, dtype="f32")
    assert files(out) == files(tmp_path / "straight")
