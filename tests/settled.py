"""Decided settings for a test that reads no data: what it does not name is small or off."""

from __future__ import annotations

from typing import Any

from bp_core.settings.decided import DECIDABLE, Decided, is_open, value_of
from bp_core.settings.knobs import Settings

SMALL: dict[str, Any] = {
    "rank": 8,
    "alpha": 16.0,
    "target_modules": ("all-linear",),
    "steps": 1,
    "batch_size": 1,
    "gradient_accumulation": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "quantization": "none",
    "optim": "sgd",
    "gradient_checkpointing": False,
    "recompute": "layers",
    "attn_implementation": "sdpa",
    "length_buckets": False,
    "loss_chunk": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "packing": False,
}


def settled(settings: Settings) -> Decided:
    """The settings with every gap filled."""
    gaps = {name: SMALL[name] for name in DECIDABLE if is_open(name, value_of(settings, name))}
    return Decided.of(settings.replace("default", **gaps))
