"""Checkpoints with vision, on text: their language part is tuned and exported, the rest is carried through as it is."""

from __future__ import annotations

import json

import pytest
import torch
import vision
from bp_core import Trainer
from bp_core.memory.shapes import Shapes
from bp_export import export
from peft import PeftModel
from safetensors.torch import load_file
from stones import quiet, stones
from trajectories import BASE
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

LANGUAGE = "language_model."
PARTS = [
    pytest.param(kind, mode, marks=[pytest.mark.slow] if (kind, mode) == ("mistral3", "full") else [])
    for kind in vision.MODELS
    for mode in ("lora", "full")
]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {kind: vision.build(kind, tmp_path_factory.mktemp(kind)) for kind in vision.MODELS}


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 45)[None]).logits


@pytest.mark.parametrize(("kind", "mode"), PARTS)
def test_the_language_part_is_tuned_and_the_rest_goes_with_it(tmp_path, checkpoints, kind, mode):
    base = checkpoints[kind]
    given = {**BASE, "mode": mode, "heldout_ratio": 0.0}
    if mode == "full":
        del given["rank"]
    trainer = Trainer(str(base), output=tmp_path, tell=quiet, **given)
    result = trainer.train(stones(16), steps=2)
    mine = logits(trainer._last.model)
    before = load_file(base / "model.safetensors")
    if mode == "lora":
        adapter = load_file(result.adapter_path / "adapter_model.safetensors")
        config = json.loads((base / "config.json").read_text())
        assert len(adapter) == 2 * 7 * config["text_config"]["num_hidden_layers"]
        assert all(".language_model." in name for name in adapter)
        plain = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
        assert torch.equal(logits(PeftModel.from_pretrained(plain, result.adapter_path)), mine)
    merged = export(result.adapter_path, format="merged", output=tmp_path / "merged")
    after = load_file(merged.path / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed
    assert all(name.startswith(LANGUAGE) for name in changed)
    loaded = AutoModelForImageTextToText.from_pretrained(merged.path, dtype=torch.float32)
    assert type(loaded).__name__ == json.loads((base / "config.json").read_text())["architectures"][0]
    assert float((logits(loaded) - mine).abs().max()) < 0.05  # merged weights are bf16
    gguf = trainer.export("gguf", quantization="f32", output=tmp_path / "gguf", verify=True)
    assert (gguf.verified, gguf.top1_agreement) == (True, 1.0)
    assert gguf.kl < 1e-4


def test_a_gemma_of_text_alone_is_trained_whole_and_becomes_gguf(tmp_path):
    base = vision.build("gemma3_text", tmp_path / "base")
    given = {**BASE, "mode": "full", "heldout_ratio": 0.0}
    del given["rank"]
    trainer = Trainer(str(base), output=tmp_path, tell=quiet, **given)
    result = trainer.train(stones(16), steps=2)
    loaded = AutoModelForCausalLM.from_pretrained(result.adapter_path, dtype=torch.float32)
    assert type(loaded).__name__ == "Gemma3ForCausalLM"
    assert float((logits(loaded) - logits(trainer._last.model)).abs().max()) < 1e-4
    gguf = trainer.export("gguf", quantization="f32", output=tmp_path / "gguf", verify=True)
    assert (gguf.verified, gguf.top1_agreement) == (True, 1.0)
    assert gguf.kl < 1e-4


@pytest.mark.parametrize("kind", vision.MODELS)
def test_its_parameters_are_counted(checkpoints, kind):
    shapes = Shapes.of(json.loads((checkpoints[kind] / "config.json").read_text()))
    language = {
        k: t for k, t in load_file(checkpoints[kind] / "model.safetensors").items() if k.startswith(LANGUAGE)
    }
    assert shapes.parameters == sum(t.numel() for t in language.values())


def test_rows_with_images_are_refused_by_name(tmp_path, checkpoints):
    rows = tmp_path / "rows.jsonl"
    seen = [{"type": "image_url", "image_url": {"url": "cat.png"}}, {"type": "text", "text": "What is it?"}]
    told = [{"role": "user", "content": seen}, {"role": "assistant", "content": "A cat."}]
    said = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}]
    lines = [{"messages": told}, *({"messages": said} for _ in range(3))]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {**BASE, "heldout_ratio": 0.0}
    result = Trainer(str(checkpoints["gemma3"]), output=tmp_path, tell=quiet, **given).train(
        str(rows), steps=1
    )
    assert result.rejections == {"unsupported_content_part": 1}
