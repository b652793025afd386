"""A tiny model whose adapter has moved from where it began, and its encoder."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from bp_core.encoding.encode import Encoder
from bp_core.models.adapters import add_adapter
from bp_core.models.device import choose_device
from bp_core.models.load import load_model, load_tokenizer
from bp_core.settings.resolve import resolve
from bp_export import resolve_base
from settled import settled


@cache
def moved() -> tuple[Any, Encoder]:
    """Of the embedded model, in evaluation mode; shared: whoever changes a weight or a gradient puts it back."""
    settings = _settings()
    folder = resolve_base("tiny").path
    return (
        _moved(load_model(folder, settings, choose_device(settings))),
        Encoder(load_tokenizer(folder, settings)),
    )


@cache
def moved_random(tokenizer_folder: Path) -> tuple[Any, Encoder]:
    """Of a random model of two layers with a real tokenizer and its chat template."""
    import transformers

    tokenizer = load_tokenizer(tokenizer_folder, _settings())
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return _moved(transformers.AutoModelForCausalLM.from_config(config)), Encoder(tokenizer)


def _settings() -> Any:
    return resolve({"model": "tiny", "rank": 8, "alpha": 16.0, "target_modules": ("all-linear",)})


def _moved(base: Any) -> Any:
    model = add_adapter(base, settled(_settings()))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return model.eval()
