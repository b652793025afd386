"""Writing: refusals before any work, atomic files, kills, and blocks of rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tiny_models
from bp_export.gguf import QUANTIZATIONS, GgufFile, blocks, plan_gguf, write_gguf
from bp_export.gguf.arch import Mapped
from bp_export.gguf.recipe import tensor_types
from bp_export.verify.gguf import verify
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from safetensors.numpy import load_file, save_file


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return tiny_models.build("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture
def copy(qwen, tmp_path):
    """A copy of the model's folder whose weights can be spoilt: (folder, spoil)."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in qwen.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())

    def spoil(change) -> None:
        tensors = {k: v.copy() for k, v in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return folder, spoil


def _refused(folder, tmp_path, quantization="f16", **config) -> BpError:
    out = tmp_path / "out"
    out.mkdir()
    with Checkpoint.open(folder) as source, pytest.raises(BpError) as caught:
        write_gguf(source, source.config | config, folder, out / "m.gguf", quantization)
    assert [p.name for p in out.iterdir()] == []
    assert caught.value.hint
    return caught.value


def test_a_nan_is_refused_with_the_tensor_s_name(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((511, 255), np.nan))
    error = _refused(folder, tmp_path, "q8_0")
    assert error.code == "INPUT_TENSOR_NOT_FINITE"
    assert "layers.1.mlp.up_proj" in error.message


def test_a_weight_too_large_for_f16_is_refused_and_bf16_offered(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t["model.layers.0.mlp.up_proj.weight"].__setitem__((0, 0), 1e6))
    error = _refused(folder, tmp_path, "f16")
    assert error.code == "INPUT_TENSOR_NOT_FINITE"
    assert "bf16" in error.hint
    with Checkpoint.open(folder) as source:
        write_gguf(source, source.config, folder, tmp_path / "m.gguf", "bf16")


def test_a_missing_tensor(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t.pop("model.layers.1.self_attn.k_norm.weight"))
    error = _refused(folder, tmp_path)
    assert error.code == "INPUT_TENSOR_MISSING"
    assert "blk.1.attn_k_norm" in error.message


def test_a_tensor_that_the_family_does_not_have(copy, tmp_path):
    folder, spoil = copy
    spoil(
        lambda t: t.update({"model.layers.0.self_attn.q_proj.lora_A.weight": np.zeros((4, 256), np.float32)})
    )
    error = _refused(folder, tmp_path)
    assert error.code == "INPUT_TENSOR_UNKNOWN"
    assert "lora_A" in error.message


def test_an_untied_head_under_a_tied_configuration(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t.update({"lm_head.weight": np.ones_like(t["model.embed_tokens.weight"])}))
    assert _refused(folder, tmp_path).code == "INPUT_MODEL_UNSUPPORTED"


def test_shapes_against_the_configuration(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t.update({"model.layers.0.mlp.down_proj.weight": np.ones((256, 500), np.float32)}))
    assert _refused(folder, tmp_path).code == "INPUT_TENSOR_SHAPE"


@pytest.mark.parametrize("field", ["hidden_size", "rms_norm_eps", "num_hidden_layers", "intermediate_size"])
def test_a_configuration_without_a_field(qwen, tmp_path, field):
    error = _refused(qwen, tmp_path, **{field: None})
    assert error.code == "INPUT_CONFIG_INVALID"
    assert field in error.message


def test_an_unknown_quantization_lists_those_there_are(qwen, tmp_path):
    error = _refused(qwen, tmp_path, "q9_k")
    assert error.code == "INPUT_QUANTIZATION_UNKNOWN"
    assert all(q in error.message for q in QUANTIZATIONS)


def test_a_folder_without_tokenizer(copy, tmp_path):
    folder, _ = copy
    (folder / "tokenizer.json").unlink()
    assert _refused(folder, tmp_path).code == "INPUT_TOKENIZER_MISSING"


def test_a_tokenizer_larger_than_the_embedding(copy, tmp_path):
    folder, spoil = copy
    spoil(lambda t: t.update({"model.embed_tokens.weight": t["model.embed_tokens.weight"][:300].copy()}))
    assert _refused(folder, tmp_path).code == "INPUT_VOCABULARY_MISMATCH"


def test_a_split_that_llama_cpp_does_not_have(copy, tmp_path):
    folder, _ = copy
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W+"
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    error = _refused(folder, tmp_path)
    assert error.code == "INPUT_TOKENIZER_UNSUPPORTED"
    assert r"\\w+|\\W+" in error.message


def test_a_model_that_is_no_bpe(copy, tmp_path):
    folder, _ = copy
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordPiece", "vocab": {}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert _refused(folder, tmp_path).code == "INPUT_TOKENIZER_UNSUPPORTED"


def test_an_existing_file_survives_a_failed_export(copy, tmp_path):
    folder, spoil = copy
    path = tmp_path / "m.gguf"
    path.write_bytes(b"the old file")
    spoil(lambda t: t["model.norm.weight"].__setitem__(0, np.inf))
    with Checkpoint.open(folder) as source, pytest.raises(BpError):
        write_gguf(source, source.config, folder, path, "f16")
    assert path.read_bytes() == b"the old file"


class Big:
    """A model with one embedding of many row blocks; rows say which they are."""

    names = ("model.embed_tokens.weight",)

    def info(self, name):
        raise KeyError(name)

    def read(self, name, start=0, stop=None):
        stop = 9000 if stop is None else stop
        return np.arange(start, stop, dtype=np.float32)[:, None] + np.zeros((1, 512), np.float32)


def test_row_blocks_cover_every_row_once_whatever_the_order():
    t = Mapped("x.weight", (9000, 512), "x")
    ranges = blocks.row_blocks(t)
    assert len(ranges) > 3
    assert np.array_equal(np.concatenate([np.arange(*r) for r in ranges]), np.arange(9000))
    order = np.random.default_rng(0).permutation(9000 // 50).repeat(50) * 50 + np.tile(np.arange(50), 180)
    for rows in (None, np.arange(9000)[::-1].copy(), order):
        t = Mapped("x.weight", (9000, 512), "x", rows=rows)
        read = np.concatenate([blocks.values(Big(), t, *r) for r in ranges])[:, 0]
        assert np.array_equal(read, np.arange(9000) if rows is None else rows)


def test_the_recipe_of_a_32_layer_model_is_llama_cpp_s():
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm")
    shapes = {"attn_norm": (4096,), "ffn_down": (4096, 14336)}
    tensors = [Mapped("token_embd.weight", (1000, 4096))]
    tensors += [Mapped(f"blk.{i}.{p}.weight", shapes.get(p, (4096, 4096))) for i in range(32) for p in parts]
    tensors += [Mapped("output_norm.weight", (4096,)), Mapped("output.weight", (1000, 4096))]

    def types(quantization, part):
        found, fallen = tensor_types(tensors, quantization, heads=32, kv_heads=8, layers=32)
        assert fallen == {}
        assert found["output.weight"] == ("q8_0" if quantization == "q8_0" else "q6_k")
        assert found["blk.3.attn_norm.weight"] == "f32"
        return [found[f"blk.{i}.{part}.weight"] for i in range(32)]

    more = {*range(4), *range(28, 32), *range(6, 28, 3)}
    expected = ["q6_k" if i in more else "q4_k" for i in range(32)]
    assert types("q4_k_m", "attn_v") == types("q4_k_m", "ffn_down") == expected
    assert types("q4_k_m", "attn_q") == ["q4_k"] * 32
    assert types("q5_k_m", "ffn_down") == ["q6_k" if i in more else "q5_k" for i in range(32)]
    assert types("q3_k_m", "attn_v") == ["q5_k"] * 2 + ["q4_k"] * 30
    assert types("q3_k_m", "ffn_down") == ["q5_k"] * 2 + ["q4_k"] * 30
    assert types("q3_k_m", "attn_output") == ["q4_k"] * 32
    assert types("q2_k", "attn_v") == ["q4_k"] * 32
    assert types("q2_k", "ffn_down") == types("q2_k", "attn_output") == ["q3_k"] * 32
    assert types("q4_0", "ffn_down") == ["q4_0"] * 32


def test_odd_rows_fall_back_and_are_told(tmp_path):
    folder = tiny_models.build(
        "qwen2",
        tmp_path / "odd",
        hidden_size=224,
        intermediate_size=272,
        num_attention_heads=7,
        num_key_value_heads=1,
    )
    with Checkpoint.open(folder) as source:
        for quantization, expected in (
            ("q4_k_m", {"q5_0": "q4_k", "q8_0": "q6_k"}),
            ("q5_k_m", {"q5_1": "q5_k", "q8_0": "q6_k"}),
            ("q2_k", {"q4_0": "q2_k"}),
        ):
            path = tmp_path / f"{quantization}.gguf"
            result = write_gguf(source, source.config, folder, path, quantization)
            assert set(expected) <= set(result.types)
            assert set(expected.values()) <= set(result.fallen)
            assert result.types["f16"] == 2  # 272 is no multiple of 32 either
            found = verify(
                path, tiny_models.reference(folder), source=source, config=source.config, tokenizer_dir=folder
            )
            assert found.problems == ()


def test_the_plan_is_the_file(qwen, tmp_path):
    with Checkpoint.open(qwen) as source:
        plan = plan_gguf(source, source.config, qwen, "q4_k_m")
        seen: list[tuple[int, int]] = []
        write_gguf(
            source,
            source.config,
            qwen,
            tmp_path / "m.gguf",
            "q4_k_m",
            progress=lambda a, b: seen.append((a, b)),
        )
    file = GgufFile(tmp_path / "m.gguf")
    assert [(e.name, e.type, e.nbytes) for e in plan.entries] == [
        (t.name, t.type, t.nbytes) for t in file.tensors.values()
    ]
    assert file.size - next(iter(file.tensors.values())).start == plan.data_bytes
    assert seen[-1] == (sum(e.nbytes for e in plan.entries),) * 2


@pytest.mark.parametrize("quantization", list(QUANTIZATIONS))
def test_threads_do_not_change_a_byte(qwen, tmp_path, quantization):
    with Checkpoint.open(qwen) as source:
        for threads in (1, 4):
            write_gguf(
                source, source.config, qwen, tmp_path / f"{threads}.gguf", quantization, threads=threads
            )
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "4.gguf").read_bytes()


_CHILD = """
import sys, time
from pathlib import Path
from bp_export.gguf import write, write_gguf
from bp_merge.checkpoint import Checkpoint
folder, path, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
write._FLUSH_EVERY = 1
def progress(done, total):
    print(done, flush=True)
    time.sleep(pause)
with Checkpoint.open(folder) as source:
    result = write_gguf(source, source.config, folder, path, "q4_k_m", source_id="same", progress=progress)
print("resumed", result.resumed)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
@pytest.mark.parametrize("blocks_before", [1, 9, 20])
def test_a_killed_export_goes_on_and_gives_the_same_bytes(qwen, tmp_path, blocks_before):
    path = tmp_path / "m.gguf"
    command = [sys.executable, "-c", textwrap.dedent(_CHILD), str(qwen), str(path)]
    with subprocess.Popen([*command, "0.05"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(blocks_before):
            child.stdout.readline()
        time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert path.with_name("m.gguf.partial").exists()
    done = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) >= blocks_before - 1
    with Checkpoint.open(qwen) as source:
        write_gguf(source, source.config, qwen, tmp_path / "straight.gguf", "q4_k_m")
    assert path.read_bytes() == (tmp_path / "straight.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "straight.gguf"]


@pytest.mark.parametrize("change", ["weights", "quantization", "cut"])
def test_another_export_does_not_go_on_with_a_stranger_s_bytes(qwen, tmp_path, change):
    path = tmp_path / "m.gguf"
    command = [sys.executable, "-c", textwrap.dedent(_CHILD), str(qwen), str(path)]
    with subprocess.Popen([*command, "0.05"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(9):
            child.stdout.readline()
        child.kill()
    if change == "cut":
        os.truncate(path.with_name("m.gguf.partial"), 1000)
    with Checkpoint.open(qwen) as source:
        identity, quantization = (
            ("other" if change == "weights" else "same"),
            ("q8_0" if change == "quantization" else "q4_k_m"),
        )
        result = write_gguf(source, source.config, qwen, path, quantization, source_id=identity)
        assert result.resumed == 0
        write_gguf(source, source.config, qwen, tmp_path / "straight.gguf", quantization)
    assert path.read_bytes() == (tmp_path / "straight.gguf").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="flock is POSIX; Windows locks the same way")
def test_two_writers_of_one_file(qwen, tmp_path):
    import fcntl

    with Checkpoint.open(qwen) as source, (tmp_path / "m.gguf.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BpError) as caught:
            write_gguf(source, source.config, qwen, tmp_path / "m.gguf", "f16")
    assert caught.value.code == "STATE_EXPORT_BUSY"
    assert caught.value.retryable
