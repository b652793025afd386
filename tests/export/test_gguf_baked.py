"""Base and adapter in one pass: the file holds W + ΔW rounded once, whatever the type."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import tiny_models
import torch
import transformers
from bp_export.gguf import GgufFile, write_gguf
from bp_export.verify.gguf import verify
from bp_merge.adapter import Adapter
from bp_merge.baked import Baked
from bp_merge.checkpoint import Checkpoint


# peft reads a property that transformers deprecates: https://github.com/huggingface/peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("family", ["qwen3", "llama3"])
def test_one_pass_is_the_merged_model(tmp_path, family):
    folder = tiny_models.build(family, tmp_path / "base", dtype=torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().eval()

    def reference(ids):
        with torch.no_grad():
            return merged(torch.tensor([ids])).logits[0].numpy()

    with Checkpoint.open(folder) as base, Baked(base, [Adapter.load(tmp_path / "adapter")]) as source:
        for quantization, limit in (
            ("f32", 1e-6),
            ("f16", 1e-4),
            ("bf16", 2e-3),
            ("q8_0", 2e-2),
            ("q4_k_m", 1.0),
        ):
            path = tmp_path / f"{quantization}.gguf"
            write_gguf(source, base.config, folder, path, quantization)
            found = verify(path, reference, source=source, config=base.config, tokenizer_dir=folder)
            assert found.problems == ()
            assert found.kl is not None
            assert found.kl < limit
    down = merged.model.layers[1].mlp.down_proj.weight.detach().numpy()
    once = down.astype(np.float16).astype(np.float32)
    assert np.mean(GgufFile(tmp_path / "f16.gguf").read("blk.1.ffn_down.weight") == once) > 0.999
