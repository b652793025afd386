"""Rewrite a dataset in one canonical format, after a look: what `bp-data map` does.

- Without an output nothing is written: the result shows accepted samples, and the refusals grouped by reason.
- With an output every refused row must have a reason that the caller agreed to drop; otherwise nothing is written
  and the counts say what to decide. Dropped rows stay in the counts.
- Same input, same bytes; `whole_files` writes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bp_data.errors import BpError
from bp_data.example import Example, Rejected
from bp_data.excerpt import shown
from bp_data.reader import Reader
from bp_data.render import dumps, rows, to_row
from bp_data.sources import expand
from bp_data.whole_files import whole_files

FIRST_LINES = 5


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was, or would be, written.

    Args:
        rows_total: rows read.
        rows_accepted: rows that became Examples.
        rows_rejected: the others.
        rejections: reason → {count, lines, field, hint, excerpt} with the first line numbers.
        dropped: reasons that the caller agreed to drop, with their counts.
        undecided: reasons that stand in the way of writing.
        samples: the first accepted rows, rendered.
        detection: one line for each source.
        keys: the account of keys that are not in the rows written, one line each.
        output: the file written, or "".
        unit: what the numbers of rows count, "line" or "row".
    """

    rows_total: int
    rows_accepted: int
    rows_rejected: int
    rejections: dict[str, dict[str, Any]]
    dropped: dict[str, int]
    undecided: tuple[str, ...]
    samples: tuple[dict[str, Any], ...]
    detection: tuple[str, ...]
    keys: tuple[str, ...]
    output: str
    unit: str = "line"

    def tell(self) -> str:
        """The result for people."""
        lines = [
            *self.detection,
            f"{self.rows_total} rows: {self.rows_accepted} accepted, {self.rows_rejected} rejected",
        ]
        lines += [f"  {dumps(sample).decode().strip()[:300]}" for sample in self.samples]
        for reason, found in sorted(self.rejections.items(), key=lambda pair: (-pair[1]["count"], pair[0])):
            state = " (dropped)" if reason in self.dropped else ""
            lines += [
                f"{reason}: {found['count']}{state}, {self.unit}s {', '.join(map(str, found['lines']))}",
                f"  {found['hint']}",
                f"  found: {found['excerpt']}",
            ]
        lines += self.keys
        if self.output:
            lines.append(f"wrote {shown(self.output)}")
        return "\n".join(lines)


def convert(
    reader: Reader,
    output: str | os.PathLike[str] | None = None,
    *,
    shape: str = "row",
    drop: Iterable[str] = (),
    overwrite: bool = False,
    samples: int = 3,
    progress: Callable[[int], None] | None = None,
) -> Conversion:
    """Read everything, render it, and write it where that was asked and agreed.

    Args:
        reader: what `read` returned.
        output: a `.jsonl` file; None for a dry run.
        shape: row, messages or prompt_completion.
        drop: reason codes whose rows may be left out; "all" for every one.
        overwrite: replace an existing output.
        samples: accepted rows to show.
        progress: called with the number of rows so far.

    Raises:
        BpError: as `read`; `INPUT_OUTPUT_…`, `RUNTIME_DISK_FULL`.
    """
    agreed = set(drop)
    reader.tells_account = False  # it is part of the result
    kept: list[dict[str, Any]] = []
    reasons: dict[str, dict[str, Any]] = {}
    accepted = rejected = 0

    def refuse(row: Rejected) -> None:
        nonlocal rejected
        rejected += 1
        first = {"count": 0, "lines": [], "field": row.field, "hint": row.hint, "excerpt": row.excerpt}
        found = reasons.setdefault(row.reason, first)
        found["count"] += 1
        if len(found["lines"]) < FIRST_LINES:
            found["lines"].append(row.line)

    undecided: list[str] = []
    with contextlib.ExitStack() as stack:
        file = (
            stack.enter_context(whole_files(Path(output), overwrite=overwrite, inputs=input_files(reader)))[0]
            if output
            else None
        )
        for row in rows(reader, shape, rejected=refuse):
            accepted += 1
            if len(kept) < samples:
                kept.append(row)
            if file is not None:
                file.write(dumps(row))
            if progress is not None and accepted % 4096 == 0:
                progress(accepted + rejected)
        undecided = sorted(reason for reason in reasons if reason not in agreed and "all" not in agreed)
        written = file is not None and accepted > 0 and not undecided
        if file is not None:
            file.keep = written
    return Conversion(
        rows_total=accepted + rejected,
        rows_accepted=accepted,
        rows_rejected=rejected,
        rejections=reasons,
        dropped={reason: found["count"] for reason, found in reasons.items() if reason not in undecided},
        undecided=tuple(undecided),
        samples=tuple(kept),
        detection=tuple(found.tell() for found in reader.detections),
        keys=tuple(reader.account.tell()),
        output=str(output) if written else "",
        unit="row" if {source.counts.unit for source in reader.sources} == {"row"} else "line",
    )


def input_files(reader: Any, *further: str | os.PathLike[str]) -> list[Path]:
    """The files that a reader reads, and those behind further names: what no output may replace."""
    sources = [*getattr(reader, "sources", ()), *(expand(*further) if further else ())]
    return [Path(source.spec) for source in sources if source.is_file]


def write_sides(reader: Reader, *sides: tuple[Path, Sequence[Example]], overwrite: bool) -> None:
    """Write each list of Examples to its file, as the rows that stood in the source.

    Files are read once more for their rows; pipes and remote sources, which cannot be, give canonical rows. All files
    appear, or none.

    Args:
        reader: the reader that gave the Examples.
        sides: (file, rows), each file another one.
        overwrite: replace existing files.

    Raises:
        BpError: `INPUT_OUTPUT_…`, `RUNTIME_DISK_FULL`; `INPUT_DATASET_UNREADABLE` where a source changed meanwhile.
    """
    again = {source.name for source in reader.sources if source.is_file}
    place = {
        (row.source, row.line): number
        for number, (_, side) in enumerate(sides)
        for row in side
        if row.source in again
    }
    paths = [path for path, _ in sides]
    with whole_files(*paths, overwrite=overwrite, inputs=input_files(reader)) as files:
        for file, (_, examples) in zip(files, sides, strict=True):
            for example in examples:
                if example.source not in again:
                    file.write(dumps(to_row(example)))
        for source in reader.sources:
            for batch in source.batches(reader.limits) if source.is_file else ():
                for item in batch:
                    if isinstance(item, Rejected):
                        continue
                    if (number := place.pop((source.name, item[0]), None)) is not None:
                        files[number].write(dumps(item[1]))
        if place:
            name, line = min(place)
            raise BpError(
                "INPUT_DATASET_UNREADABLE",
                f"{shown(name)} changed while it was read: row {line} is gone; nothing was written",
                "repeat the command when the file is complete",
                retryable=True,
            )
