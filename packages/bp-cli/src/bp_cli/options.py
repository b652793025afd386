"""An option that several commands take; light, so that help stays quick."""

from __future__ import annotations

from pathlib import Path

import click

output_option = click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("output"),
    show_default=True,
    help="Folder that holds runs.db.",
)
