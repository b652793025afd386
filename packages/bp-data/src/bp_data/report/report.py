"""The dataset report: everything that a training run should know before it starts. `report_pass` does the work.

- Duplicate counts are the rows that keep-first would remove: `exact_duplicates` by content key, `near_duplicate_rows`
  the further ones by star clusters of verified pairs.
- Verdict: FAIL where a gate tripped or no row could be used, WARN where a figure passes its advisory threshold, else
  PASS. `strict` turns WARN into FAIL. Without a gate the report never fails a command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bp_data.common import build
from bp_data.example import Example, Rejected
from bp_data.report.collect import Pass
from bp_data.report.result import Report
from bp_data.report.settings import ReportSettings
from bp_data.whole_files import room_for_temporary_files


def report(
    dataset: Iterable[Example | Rejected] | str | Path | Sequence[str | Path],
    settings: ReportSettings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    **changes: Any,
) -> Report:
    """Look at every row of a dataset.

    Args:
        dataset: paths that `bp_data.read` can open, or rows (for instance a `Reader` with its own mapping).
        settings: what to look for; `changes` overrides its fields.
        progress: called with the number of rows so far.
        changes: fields of `ReportSettings`.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`, `INPUT_TOKENIZER_INVALID`, and what `read` raises for the dataset or for a
            file of `against`.

    Example:
        >>> from bp_data.example import Example
        >>> found = report([Example(f"r{i}", "mem", i, "text", text="the same text") for i in range(3)])
        >>> found.rows_accepted, found.exact_duplicates
        (3, 2)
    """
    settings = build(ReportSettings, changes, base=settings, command="bp-data report")

    one_pass = Pass(settings, progress)
    with contextlib.closing(one_pass), room_for_temporary_files():
        return one_pass.run(dataset)
