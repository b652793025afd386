"""Training, safety monitors, runs and evaluation for one person with one GPU."""

from __future__ import annotations

import importlib
import logging
from typing import Any

# on import it warns of an optional kernel for 4-bit inference on the CPU, which nothing here uses
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_EXPORTS = {
    "BpError": "bp_merge.common",
    "Callback": "bp_core.training.callbacks",
    "RunResult": "bp_core.runs.results",
    "RunStore": "bp_core.runs.store",
    "Settings": "bp_core.settings.knobs",
    "StepInfo": "bp_core.training.callbacks",
    "Trainer": "bp_core.trainer",
    "register_with_ollama": "bp_core.trainer",
    "resolve": "bp_core.settings.resolve",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
