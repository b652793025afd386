"""An option that several commands take; light, so that help stays quick."""

from __future__ import annotations

from pathlib import Path

import click
from bp_core.settings.knobs import knob_of
from bp_merge.common.flags import option


def _resolved(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """As given, else where `train` would write: [tracking] output of backprop.toml, the environment, `output`."""
    if value is not None or ctx.resilient_parsing:
        return value
    from bp_core.settings.resolve import resolve

    return resolve().tracking.output


output_option = option(
    knob_of("output"),
    type=click.Path(path_type=Path),
    callback=_resolved,
    help="Folder that holds runs.db.  [default: as `train` writes, output]",
)
