"""Read, detect, map, validate, report, deduplicate and split training data.

    import bp_data

    for row in bp_data.read("train.jsonl"):
        ...  # an Example, or a Rejected that says why not

- Public names load on first use; importing the package costs milliseconds and loads neither numpy nor pyarrow.
- `bp_data.split`, `report` and `clean` are the functions, although modules of those names hold them: Python would bind
  the module to the package's attribute when it is first imported, and `_Package` keeps it from doing so.
"""

from __future__ import annotations

import importlib
import sys
import types
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
    "Issue": "checks",
    "check": "checks",
    "refused": "checks",
    "KeyAccount": "key_account",
    "Limits": "sources",
    "Reader": "reader",
    "read": "reader",
    "Conversion": "conversion",
    "convert": "conversion",
    "to_arrow": "render",
    "to_dataset": "render",
    "to_messages": "render",
    "to_prompt_completion": "render",
    "to_row": "render",
    "CleanSettings": "clean",
    "Cleaned": "clean",
    "clean": "clean",
    "Report": "report.result",
    "ReportSettings": "report.settings",
    "report": "report.report",
    "Split": "split",
    "SplitSettings": "split_settings",
    "split": "split",
    "Validation": "validation",
    "ValidateSettings": "validation",
    "validate": "validation",
}
__all__ = sorted(_NAMES)


class _Package(types.ModuleType):
    """The package, whose public names are never replaced by a submodule of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _NAMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'bp_data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bp_data.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
