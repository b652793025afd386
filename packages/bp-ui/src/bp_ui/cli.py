"""backprop ui: says that this release has no web UI, and what shows runs meanwhile."""

from __future__ import annotations

import click
from bp_merge.common import BpError


@click.command()
def ui() -> None:
    """The web UI."""
    raise BpError(
        "DEP_UI_NOT_AVAILABLE",
        "this version of bp-ui has no web UI",
        "backprop runs, backprop show-run RUN, or open the report.html of a run",
    )
