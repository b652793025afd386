"""What a report looks for, and when it fails: one field each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from bp_data.common import knob, like
from bp_data.split_settings import SplitSettings

Share = Annotated[float, Ge(0), Le(1)]


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What the report looks for, and when it fails."""

    against: tuple[str, ...] = knob(
        (), "Held-out or benchmark file that must not overlap (repeat it).", group="report", whole=True
    )
    dup_threshold: Annotated[float, Ge(0.3), Le(1)] = like(
        SplitSettings,
        "dup_threshold",
        help="Jaccard similarity from which two rows are near-duplicates.",
        group="report",
    )
    shingle: str = like(SplitSettings, "shingle", group="report")
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
