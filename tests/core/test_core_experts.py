"""all-linear on a mixture of experts: attention and shared layers, never experts or router."""

from __future__ import annotations

import torch
import transformers
from bp_core.models.adapters import beside_experts
from peft import LoraConfig, get_peft_model


def test_all_linear_leaves_experts_and_router():
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    experts = {"moe_intermediate_size": 8, "num_experts": 4, "num_experts_per_tok": 2}
    with torch.device("meta"):
        dense = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**sizes, **heads))
        sparse = transformers.AutoModelForCausalLM.from_config(
            transformers.Qwen3MoeConfig(**sizes, **heads, **experts)
        )
        mixed = transformers.AutoModelForCausalLM.from_config(
            transformers.Qwen3MoeConfig(
                **{**sizes, "num_hidden_layers": 2}, **heads, **experts, mlp_only_layers=[0]
            )
        )
    assert beside_experts(dense) == []
    for model in (sparse, mixed):
        assert beside_experts(model) == [f"self_attn.{n}_proj" for n in "koqv"]
    adapted = get_peft_model(mixed, LoraConfig(target_modules=beside_experts(mixed)))
    names = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(names) == 2 * 2 * 4
    assert not any("mlp" in n for n in names)
