"""A report: the figures, and the two pages that they are rendered to."""

from __future__ import annotations

import dataclasses

from bp_data.report.figures import Figures
from bp_data.report.html import to_html
from bp_data.report.text import to_text


@dataclasses.dataclass(frozen=True)
class Report(Figures):
    """The figures of a dataset; the fields are the keys of the JSON report, which adds `schema_version`."""

    def to_text(self) -> str:
        """The report for a terminal."""
        return to_text(self)

    def to_html(self) -> str:
        """The report as one self-contained page."""
        return to_html(self)
