"""The flags of the root, accepted before or after the verb: `backprop --verbose train`, `backprop train --verbose`.

- Each mounted command gets them hidden, but for a name that the command uses itself.
- What was given lies in the root's `obj`; logging is set up as soon as a flag or a variable asks for it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

LOG_VARIABLES = ("BACKPROPAGATE_LOG_", "BACKPROPAGATE_TRACKING__LOG_")


def root_options(*, hidden: bool = False) -> Iterator[click.Option]:
    """The options, new ones at each call; none reaches the command's function."""
    options: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
        (("--verbose", "-v"), {"is_flag": True, "help": "Show tracebacks and debug logs."}),
        (
            ("--version", "-V"),
            {"is_flag": True, "is_eager": True, "callback": _version, "help": "Print the version."},
        ),
        (
            ("--log-level",),
            {
                "type": click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
                "help": "Lowest level that is logged.",
            },
        ),
        (("--log-format",), {"type": click.Choice(["console", "json"]), "help": "How log lines look."}),
        (
            ("--log-file",),
            {"type": click.Path(path_type=Path, dir_okay=False), "help": "Also log to this file."},
        ),
    )
    for names, more in options:
        yield click.Option(names, **{"callback": _keep, **more}, expose_value=False, hidden=hidden)


def with_root_flags(command: click.Command) -> click.Command:
    """A copy of a command that takes the root's flags too; it keeps its own meaning of a name that it has."""
    mounted = copy.copy(command)
    taken = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    for option in root_options(hidden=True):
        option.opts = [name for name in option.opts if name not in taken]
        if option.opts:
            mounted.params = [*mounted.params, option]
    return mounted


def given(ctx: click.Context) -> dict[str, Any]:
    """What was given of the root's flags, by name."""
    return ctx.find_root().ensure_object(dict)


def logs_are_named() -> bool:
    """Whether a variable of this process says how to log."""
    return any(k.upper().startswith(LOG_VARIABLES) for k in os.environ)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value in (None, False) or ctx.resilient_parsing or param.name is None:
        return
    given(ctx)[param.name] = value
    if param.name != "verbose":  # else a command that logs sets it up itself
        from bp_cli.shared import set_up_logs

        set_up_logs(given(ctx))


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from bp_cli import __version__

        click.echo(f"backprop {__version__}")
        ctx.exit()
