"""Tiny random checkpoints with a vision tower beside their language part, of the classes that people tune, with tiny's tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from bp_export import resolve_base

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 512,
}
SEEN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


GEMMA = {
    **TEXT,
    "sliding_window": 64,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "query_pre_attn_scalar": 16,
}


def gemma3_text() -> transformers.PreTrainedModel:
    """As Gemma 3 below 4B, which sees nothing."""
    return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**GEMMA))


def gemma3() -> transformers.PreTrainedModel:
    """As Gemma 3 from 4B on."""
    config = transformers.Gemma3Config(
        text_config={**GEMMA, "model_type": "gemma3_text"},
        vision_config={**SEEN, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        boi_token_index=1020,
        eoi_token_index=1021,
        image_token_index=1022,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def mistral3() -> transformers.PreTrainedModel:
    """As Mistral Small 3."""
    config = transformers.Mistral3Config(
        text_config={**TEXT, "model_type": "mistral", "tie_word_embeddings": False},
        vision_config={**SEEN, "model_type": "pixtral", "head_dim": 16},
        image_token_index=1022,
        tie_word_embeddings=False,
    )
    return transformers.Mistral3ForConditionalGeneration(config)


MODELS = {"gemma3": gemma3, "mistral3": mistral3}


def build(kind: str, folder: Path) -> Path:
    """Write a checkpoint in bf16 into `folder`: one of `MODELS`, or `gemma3_text`, the language part of one alone."""
    torch.manual_seed(0)
    {**MODELS, "gemma3_text": gemma3_text}[kind]().to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(resolve_base("tiny").path).save_pretrained(folder)
    return folder
