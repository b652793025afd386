"""The dataset report: everything that a training run should know before it starts. `report_pass` does the work.

- Duplicate counts are the rows that keep-first would remove: `exact_duplicates` by content key, `near_duplicate_rows`
  the further ones by star clusters of verified pairs.
- Verdict: FAIL where a gate tripped or no row could be used, WARN where a figure passes its advisory threshold, else
  PASS. `strict` turns WARN into FAIL. Without a gate the report never fails a command.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from bp_data.common import SCHEMA_VERSION, knob
from bp_data.errors import BpError
from bp_data.example import Example, Rejected
from bp_data.similarity.neardup import DEFAULT_THRESHOLD

Share = Annotated[float, Ge(0), Le(1)]


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What the report looks for, and when it fails."""

    against: tuple[str, ...] = knob(
        (), "Held-out or benchmark file that must not overlap (repeat it).", group="report"
    )
    dup_threshold: Annotated[float, Ge(0.3), Le(1)] = knob(
        DEFAULT_THRESHOLD, "Jaccard similarity from which two rows are near-duplicates.", group="report"
    )
    shingle: str = knob("auto", "What similarity compares.", group="report", choices=("auto", "word", "char"))
    tokenizer: Path | None = knob(
        None,
        "tokenizer.json, or the directory that holds one; lengths are an estimate without.",
        group="report",
    )
    max_samples: Annotated[int, Gt(0)] | None = knob(
        None, "Look at no more than this many rows.", group="report"
    )
    fail_on_dups: Share | None = knob(
        None, "Gate: fail above this share of exact and near duplicates.", group="gates"
    )
    fail_on_contamination: Share | None = knob(
        None, "Gate: fail above this share of contaminated rows.", group="gates"
    )
    max_outlier_rate: Share | None = knob(None, "Gate: fail above this share of outliers.", group="gates")
    strict: bool = knob(False, "Gate: a WARN is a FAIL.", group="gates")


@dataclasses.dataclass(frozen=True)
class Report:
    """The figures of a dataset; the fields are the keys of the JSON report, which adds `schema_version`.

    Rates are shares of the accepted rows. `near_duplicates`, `contamination` and `pii` say how they were found.
    """

    dataset: str
    rows_total: int
    rows_accepted: int
    rows_rejected: int
    rejections: dict[str, int]
    rejected: dict[str, dict[str, Any]]
    formats: dict[str, int]
    kinds: dict[str, int]
    exact_duplicates: int
    near_duplicate_rows: int
    near_duplicate_clusters: int
    near_duplicates: dict[str, Any]
    contamination: dict[str, Any]
    tokens: dict[str, Any]
    turns: dict[str, Any]
    outliers: dict[str, Any]
    scripts: dict[str, int]
    languages: dict[str, int]
    pii: dict[str, Any]
    reasoning: dict[str, Any]
    verdict: str
    warnings: list[str]
    failed_thresholds: list[str]
    seconds: float
    settings: ReportSettings
    notes: list[str] = dataclasses.field(default_factory=list)
    keys: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a command that made this report must exit 65."""
        return self.verdict == "FAIL"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data["settings"] = {
            k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self.settings).items()
        }
        return {"schema_version": SCHEMA_VERSION, **data}

    def to_text(self) -> str:
        """The report for a terminal."""
        from bp_data.report.text import to_text

        return to_text(self)

    def to_html(self) -> str:
        """The report as one self-contained page."""
        from bp_data.report.html import to_html

        return to_html(self)


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
    if isinstance(changes.get("against"), (str, Path)):
        changes["against"] = (str(changes["against"]),)
    settings = dataclasses.replace(settings or ReportSettings(), **changes)
    for name in ("fail_on_dups", "fail_on_contamination", "max_outlier_rate"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value <= 1:
            flag = "--" + name.replace("_", "-")
            raise BpError("INPUT_VALIDATION_FAILED", f"{name} must be 0 to 1, not {value}", f"{flag} 0.1")
    from bp_data.output import room_for_temporary_files
    from bp_data.report.collect import Pass

    one_pass = Pass(settings, progress)
    with contextlib.closing(one_pass), room_for_temporary_files():
        return one_pass.run(dataset)
