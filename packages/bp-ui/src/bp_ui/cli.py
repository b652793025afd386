"""`backprop ui`: says that this release has no web UI, and what shows the same."""

from __future__ import annotations

import click

from bp_ui.errors import BpError


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nMeanwhile:\n  backprop runs\n  backprop show-run RUN\n  open output/RUN/report.html\n",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def ui(arguments: tuple[str, ...]) -> None:
    """The web UI: not part of this release. Every run writes a report.html instead.

    Raises:
        BpError: `DEP_UI_NOT_AVAILABLE`, always.
    """
    raise BpError(
        "DEP_UI_NOT_AVAILABLE",
        "the web UI is not part of this release",
        "backprop runs  (lists them; each run's folder holds a report.html to open in a browser)",
    )
