"""Read, detect, map, validate, report, deduplicate and split training data.

    import bp_data

    for row in bp_data.read("train.jsonl"):
        ...  # an Example, or a Rejected that says why not

- Public names load on first use; importing the package costs milliseconds and loads neither numpy nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "BpError": "errors",
    "CODES": "errors",
    "REASONS": "errors",
    "Example": "example",
    "KINDS": "example",
    "Rejected": "example",
    "TASKS": "example",
    "Turn": "example",
    "FORMATS": "formats",
    "Detection": "detection",
    "detect": "detection",
    "FieldMap": "mapping",
    "propose": "mapping",
    "Limits": "sources",
    "Reader": "reader",
    "read": "reader",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'bp_data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bp_data.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
