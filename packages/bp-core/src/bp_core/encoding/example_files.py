"""Examples as JSON lines in a run's folder, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bp_data.example import Example, Turn

from bp_core.support.files import dumps, write_atomic


def write_examples(path: Path, examples: Iterable[Example]) -> Path:
    """Write examples, whole or not at all."""
    return write_atomic(path, "".join(dumps(dataclasses.asdict(e)) + "\n" for e in examples))


def read_examples(path: Path) -> list[Example]:
    """The examples that `write_examples` wrote; what was told of their rows is not kept."""
    with path.open(encoding="utf-8") as file:
        return [_example(json.loads(line)) for line in file]


def _example(row: Mapping[str, Any]) -> Example:
    turns = {
        side: tuple(Turn(**{**turn, "tool_calls": tuple(turn["tool_calls"])}) for turn in row[side])
        for side in ("turns", "chosen", "rejected")
    }
    return Example(**{**row, **turns, "tools": tuple(row["tools"]), "told": ()})
