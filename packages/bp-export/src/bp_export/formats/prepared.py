"""An export that is decided but not begun, and what it made once it is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_export.formats.estimate import ExportPlan

RECORD = "export.json"
Tell = Callable[[str], None]
Progress = Callable[[int, int], None] | None


@dataclasses.dataclass
class Written:
    """What an export made: figures for the result."""

    tensors: int
    checks: dict[str, Any] = dataclasses.field(default_factory=dict)
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    delta: dict[str, Any] | None = None
    notices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An export that is ready to run.

    Args:
        path: what will be made.
        quantization: number type, None where the adapter is copied.
        plan: figures.
        write: does it: (reference, note, progress).
        record: where the result is recorded, None for a plain copy.
        identity: names the exact inputs and settings, in the record.
    """

    path: Path
    quantization: str | None
    plan: ExportPlan
    write: Callable[[Any, Tell, Progress], Written]
    record: Path | None = None
    identity: str = ""
