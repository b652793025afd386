"""Adapters as GGUF LoRA files: base + adapter in llama.cpp is the merged model of transformers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import peft
import pytest
import tiny_models
import torch
import transformers
from bp_export.gguf import GgufFile, write_gguf
from bp_export.gguf.lora import write_gguf_lora
from bp_export.verify.gguf import log_softmax
from bp_export.verify.runtime import open_runtime
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from safetensors.numpy import load_file


@dataclasses.dataclass
class Pair:
    a: np.ndarray
    b: np.ndarray
    scale: float


@dataclasses.dataclass
class Lora:
    modules: dict
    config: dict


def _train(folder, out, **fields) -> transformers.PreTrainedModel:
    """A PEFT adapter with random weights, saved; returns the merged model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    adapted.save_pretrained(out)
    return adapted.merge_and_unload().eval()


def _load(folder) -> Lora:
    """The adapter as its files say: scale per module from the patterns of adapter_config.json."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    modules = {}
    for key, a in weights.items():
        if ".lora_A.weight" not in key and ".lora_embedding_A" not in key:
            continue
        name = key.split(".lora_")[0].removeprefix("base_model.model.")
        b = weights[key.replace("lora_A", "lora_B").replace("lora_embedding_A", "lora_embedding_B")]
        matched = [v for k, v in config.get("alpha_pattern", {}).items() if name.endswith(k)]
        alpha = matched[0] if matched else config["lora_alpha"]
        scale = alpha / (a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0])
        modules[name] = Pair(a, b, scale)
    return Lora(modules, config)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("qwen3", {"r": 8, "lora_alpha": 16}),
        ("llama3", {"r": 8, "lora_alpha": 16, "use_rslora": True}),
        ("llama2", {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"k_proj": 3}}),
        ("phi3", {"r": 4, "lora_alpha": 8}),
        ("gemma3", {"r": 4, "lora_alpha": 8}),
        ("qwen35", {"r": 4, "lora_alpha": 8}),
        ("smollm3", {"r": 4, "lora_alpha": 8}),
    ],
)
# peft reads a property that transformers deprecates: https://github.com/huggingface/peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_llama_cpp_with_the_adapter_is_the_merged_model(tmp_path, family, fields):
    folder = tiny_models.build(family, tmp_path / "base")
    merged = _train(folder, tmp_path / "adapter", target_modules="all-linear", **fields)
    config = json.loads((folder / "config.json").read_text())
    with Checkpoint.open(folder) as source:
        write_gguf(source, config, folder, tmp_path / "base.gguf", "f32")
    adapter = _load(tmp_path / "adapter")
    written = write_gguf_lora(adapter, config, tmp_path / "lora.gguf")
    assert written.tensors == 2 * len(adapter.modules)
    ids = list(range(260, 290))
    with torch.no_grad():
        expected = log_softmax(merged(torch.tensor([ids])).logits[0].numpy())
    context = 256
    live = open_runtime(tmp_path / "base.gguf", context=context, lora=[(tmp_path / "lora.gguf", 1.0)])
    assert live is not None
    try:
        found = log_softmax(live.logits(ids))
    finally:
        live.close()
    assert (np.exp(expected) * (expected - found)).sum(-1).mean() < 1e-6
    assert (expected.argmax(-1) == found.argmax(-1)).all()
    base = log_softmax(tiny_models.reference(folder)(ids))
    assert (np.exp(expected) * (expected - base)).sum(-1).mean() > 1e-3  # the adapter does something


def test_the_file_says_what_it_is(tmp_path):
    config = {"architectures": ["Qwen3ForCausalLM"], **tiny_models.SMALL, "head_dim": 128}
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 256)), rng.standard_normal((512, 4))
    lora = Lora({"model.layers.0.self_attn.q_proj": Pair(a, b, 2.0)}, {})
    write_gguf_lora(lora, config, tmp_path / "l.gguf", number_type="f16", general={"backprop.run_id": "r-7"})
    file = GgufFile(tmp_path / "l.gguf")
    assert file.keys["general.type"] == "adapter"
    assert file.keys["adapter.type"] == "lora"
    assert file.keys["adapter.lora.alpha"] == 8.0
    assert file.keys["backprop.run_id"] == "r-7"
    assert list(file.tensors) == ["blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"]
    assert np.allclose(file.read("blk.0.attn_q.weight.lora_b"), b, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path, fields, cause):
    config = {"architectures": ["Qwen3ForCausalLM"], **tiny_models.SMALL}
    lora = Lora(
        {"model.layers.0.self_attn.q_proj": Pair(np.zeros((4, 256)), np.zeros((256, 4)), 1.0)}, fields
    )
    with pytest.raises(BpError, match=cause) as caught:
        write_gguf_lora(lora, config, tmp_path / "l.gguf")
    assert caught.value.code == "INPUT_ADAPTER_NOT_EXPRESSIBLE"
    assert "--format gguf" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "tied", "code"),
    [
        ("transformer.h.0.attn.c_attn", False, "INPUT_TENSOR_UNKNOWN"),
        ("lm_head", True, "INPUT_ADAPTER_NOT_EXPRESSIBLE"),
    ],
)
def test_a_module_of_another_base_is_refused(tmp_path, module, tied, code):
    config = {"architectures": ["Qwen3ForCausalLM"], **tiny_models.SMALL, "tie_word_embeddings": tied}
    lora = Lora({module: Pair(np.zeros((4, 256)), np.zeros((256, 4)), 1.0)}, {})
    with pytest.raises(BpError) as caught:
        write_gguf_lora(lora, config, tmp_path / "l.gguf")
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_with_nan_is_refused(tmp_path):
    config = {"architectures": ["Qwen3ForCausalLM"], **tiny_models.SMALL}
    lora = Lora({"model.layers.0.mlp.up_proj": Pair(np.full((4, 256), np.nan), np.zeros((512, 4)), 1.0)}, {})
    with pytest.raises(BpError) as caught:
        write_gguf_lora(lora, config, tmp_path / "l.gguf")
    assert caught.value.code == "INPUT_TENSOR_NOT_FINITE"
    assert not (tmp_path / "l.gguf").exists()
