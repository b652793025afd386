"""The figures of a dataset, which the pages render."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bp_data.common import SCHEMA_VERSION
from bp_data.report.settings import ReportSettings


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was found; the fields are the keys of the JSON report, which adds `schema_version`.

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
    languages_of: int
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
