"""Options that several commands take; light, so that help stays quick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from bp_core.settings.knobs import knob_of
from bp_merge.common.flags import option

F = TypeVar("F", bound=Callable[..., Any])


def _resolved(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """As given, else where `train` would write: [tracking] output of backprop.toml, the environment, `output`."""
    if value is not None or ctx.resilient_parsing:
        return value
    from bp_core.settings.resolve import resolve

    return resolve().tracking.output


dry_run_option = click.option("--dry-run", is_flag=True, help="Only tell what would be written or changed.")
output_option = option(
    knob_of("output"),
    type=click.Path(path_type=Path),
    callback=_resolved,
    help="Folder that holds runs.db.  [default: as `train` writes, output]",
)


def retired(*names: str, told: str) -> Callable[[F], F]:
    """A flag of other tools that could change nothing here, or is a command: refused with what to do instead."""

    def refuse(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            raise click.UsageError(f"{names[0]} {told}", ctx)

    return click.option(*names, is_flag=True, hidden=True, expose_value=False, callback=refuse)
