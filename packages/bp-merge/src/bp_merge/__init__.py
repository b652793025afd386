"""Merge math for LoRA adapters and checkpoints, without torch.

- The public names are imported when they are first used: `import bp_merge` loads no numpy.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Adapter": "adapter",
    "Baked": "baked",
    "BpError": "common",
    "Checkpoint": "checkpoint",
    "LoraModule": "lora_module",
    "LowRank": "lowrank",
    "MergeResult": "engine",
    "Method": "method",
    "Moments": "moments",
    "Sketch": "moments",
    "SlaoState": "slao",
    "compare": "comparison",
    "get_method": "method",
    "greedy_soup": "methods.soup",
    "inspect": "inspection",
    "merge": "engine",
    "merge_models": "models",
    "method_names": "method",
    "plan_merge": "engine",
    "save_moments": "moments",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'bp_merge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bp_merge.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
