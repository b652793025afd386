"""What every source shares: one batch of rows, the limits, and the counts of what is neither row nor refusal."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import annotated_types

from bp_data.common import knob
from bp_data.example import Rejected

Row = tuple[int, Any]  # 1-based line, record or row number; the row as a JSON object
Batch = list[Row | Rejected]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds and choices of reading. Peak memory is about three times `max_row_bytes`, whatever the file's size."""

    max_row_bytes: Annotated[int, annotated_types.Ge(1024)] = knob(
        64 << 20, "Refuse a row longer than this.", group="reading", unit="bytes"
    )
    data_field: str = knob(
        "",
        "The array of a JSON object that holds the rows (the first array of objects unless given).",
        group="reading",
    )
    text_by: str = knob(
        "auto",
        "What one row of plain text is; auto: a paragraph of .txt, a whole document of .md.",
        group="reading",
        choices=("auto", "line", "paragraph", "document"),
    )


@dataclasses.dataclass
class Counts:
    """What a source saw beside rows: blank lines, bytes of rows, things worth telling, and why reading ended early."""

    blank: int = 0
    bytes: int = 0
    failure: Exception | None = None
    unit: str = "line"  # what a row's number counts: lines of text, or rows
    notes: list[str] = dataclasses.field(default_factory=list)
