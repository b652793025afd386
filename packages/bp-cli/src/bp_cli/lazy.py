"""A Click group that knows its commands by name and imports one only when it runs.

- The table holds where a command lives and its one-line help, so `--help` and completion import nothing else.
- Commands of other packages are mounted as they are: flags, JSON and exit codes exist once, there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """A group over `commands`: name → ("module:attribute", one-line help).

    Args:
        lazy: the table, in the order in which `--help` shows it.
        aliases: other names for commands, not shown.
        mounted: what is done with a command when it is imported, given its name.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        aliases: Mapping[str, str] | None = None,
        mounted: Callable[[click.Command, str], click.Command] = lambda command, name: command,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy, self.aliases, self.mounted = dict(lazy), dict(aliases or {}), mounted

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.lazy:
            return None
        module, _, attribute = self.lazy[name][0].partition(":")
        return self.mounted(getattr(importlib.import_module(module), attribute), name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click, with its suggestions over the names of the table."""
        self.commands = dict.fromkeys([*self.lazy, *self.aliases])  # type: ignore[assignment]  # names to suggest from
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's own help lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])
