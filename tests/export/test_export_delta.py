"""The fine-tune survives: how much of a small change is left in the files, and what is said where it drowns."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import write_adapter
from bp_export.formats.job import export
from bp_export.gguf.read import GgufFile
from bp_export.verify.delta import rounded, survival
from safetensors.numpy import load_file, save_file
from tiny_models import build

MODULES = ("self_attn.q_proj", "self_attn.o_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build("llama3", tmp_path_factory.mktemp("models") / "base", dtype=torch.bfloat16)


def weak(folder: Path, base: Path, ratio: float) -> Path:
    """An adapter whose change has an rms of `ratio` of the weights'."""
    write_adapter(folder, base_ref=str(base), base_path=base, modules=MODULES, scale=1.0)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, folder / name)
    (folder / "chat_template.jinja").unlink()
    (folder / "backprop.json").unlink()
    tensors = load_file(folder / "adapter_model.safetensors")
    weights = GgufFile(export(base, format="gguf", quantization="f32", output=folder / "w").path)
    for name in [n for n in tensors if n.endswith("lora_B.weight")]:
        a, part = tensors[name.replace("lora_B", "lora_A")], name.split(".")[4:]
        module = "attn_q" if "q_proj" in part else "attn_output"
        w = weights.read(f"blk.{part[0]}.{module}.weight")
        change = 2 * tensors[name] @ a  # lora_alpha / r
        tensors[name] *= np.float32(ratio * np.sqrt(np.square(w).mean() / np.square(change).mean()))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def touched(path: Path) -> np.ndarray:
    file = GgufFile(path)
    return np.concatenate(
        [file.read(n).ravel() for n in file.tensors if n.endswith(("attn_q.weight", "attn_output.weight"))]
    )


def test_one_rounding_keeps_what_merge_and_convert_lose(tmp_path, base):
    """At rms ΔW = 1e-3 of the weights a bf16 merge keeps half; f16 and q8_0 straight from the sum keep all of it."""
    adapter = weak(tmp_path / "law", base, 1e-3)

    def made(source: Path, quantization: str, name: str) -> np.ndarray:
        return touched(export(source, format="gguf", quantization=quantization, output=tmp_path / name).path)

    delta = made(adapter, "f32", "once") - made(base, "f32", "plain")
    merged = export(adapter, format="merged", dtype="bf16", output=tmp_path / "merged")
    assert any("is small" in n for n in merged.notices), merged.notices
    assert merged.delta is not None
    assert 0.3 < merged.delta["share"] < 0.7
    assert merged.delta["relative_rms"] == pytest.approx(1e-3, rel=0.01)
    for quantization in ("f16", "q8_0"):
        plain = made(base, quantization, "plain")
        shares = {
            way: float(np.vdot(made(source, quantization, way) - plain, delta) / np.vdot(delta, delta))
            for way, source in (("once", adapter), ("chain", merged.path))
        }
        assert shares["once"] > 0.95, shares
        assert 0.3 < shares["chain"] < 0.7, shares


@pytest.mark.parametrize(("quantization", "drowns"), [("bf16", True), ("f16", False)])
def test_an_export_whose_change_would_drown_says_so(tmp_path, base, quantization, drowns):
    adapter = weak(tmp_path / "law", base, 1e-3)
    result = export(adapter, format="gguf", quantization=quantization)
    assert result.delta is not None
    assert (result.delta["share"] < 0.7) is drowns
    told = [n for n in result.notices if "of the fine-tune is left" in n]
    assert bool(told) is drowns
    assert all("f16" in n and "gguf-lora" in n for n in told)


def test_the_sample_says_what_all_of_it_says(tmp_path, base):
    """The estimate over sampled rows is near the share over all values, whatever the type."""
    from bp_export.adapter.inputs import open_inputs

    adapter = weak(tmp_path / "law", base, 3e-3)
    with open_inputs(adapter).weights() as source:
        for kind in ("bf16", "f16", "q8_0", "q6_k"):
            found = survival(source.base, source, dict.fromkeys(source.touched, kind))
            dot = norm = 0.0
            for name in source.touched:
                w, changed = source.base.read(name), source.read(name)
                dot += float(np.vdot(rounded(changed, kind) - rounded(w, kind), changed - w))
                norm += float(np.vdot(changed - w, changed - w))
            assert found is not None
            assert found.share == pytest.approx(dot / norm, abs=0.1), kind
