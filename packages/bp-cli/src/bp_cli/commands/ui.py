"""backprop ui: the command of bp-ui, or, where that is not installed, the one command that installs it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import click
from bp_merge.common import BpError


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def _missing(arguments: tuple[str, ...]) -> None:
    """The web UI; it is not installed.

    Raises:
        BpError: `DEP_UI_NOT_AVAILABLE`, always.
    """
    raise BpError("DEP_UI_NOT_AVAILABLE", "the web UI is not installed", "pip install 'bp-suite[ui]'")


# bp-cli does not know bp-ui, which comes with an extra of the suite
ui: click.Command = importlib.import_module("bp_ui.cli").ui if find_spec("bp_ui") else _missing
