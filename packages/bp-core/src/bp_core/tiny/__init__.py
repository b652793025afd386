"""The embedded base model `tiny`: a real Qwen3 of 0.9 M parameters, for trying and testing everything on a CPU.

- Loads with plain transformers; nothing is downloaded.
- Registered as an entry point of the group `bp.models`, so that every package resolves the name `tiny`.
- Rebuilt by `python -m bp_core.tiny.build`; `model/build.json` says from what and how well it did.
"""

from __future__ import annotations

from pathlib import Path


def path() -> Path:
    """The folder of the model: config, weights, tokenizer, card, licence."""
    return Path(__file__).parent / "model"
