"""Every flag of every command, one a line: `python docs/build.py` adds new ones to tests/cli/flags.txt.

- The list is what scripts of users rely on. A flag that vanishes fails `tests/cli/test_flags.py`, and only a hand takes
  it from the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

LIST = Path(__file__).parent / "cli" / "flags.txt"


def commands() -> list[tuple[str, click.Command]]:
    """The name and the object of each program."""
    from bp_cli.root import cli
    from bp_data.cli import cli as data
    from bp_export.cli.main import cli as export
    from bp_merge.cli import cli as merge

    return [("backprop", cli), ("bp-data", data), ("bp-export", export), ("bp-merge", merge)]


def walk(name: str, command: click.Command, parent: click.Context | None = None) -> Iterator[str]:
    """`COMMAND FLAG` for each flag of a command and of those below it."""
    context = click.Context(command, info_name=name, parent=parent)
    path = context.command_path
    yield path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for flag in (*parameter.opts, *parameter.secondary_opts):
                yield f"{path} {flag}"
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            assert found is not None, f"{path} {sub}"
            yield from walk(sub, found, context)


def all_flags() -> set[str]:
    """The lines of today."""
    return {line for name, command in commands() for line in walk(name, command)}


def listed() -> set[str]:
    """The lines that are promised."""
    return set(LIST.read_text("utf-8").split("\n")) - {""}


def page() -> str:
    """The list with what is new; nothing is taken from it."""
    return "\n".join(sorted(listed() | all_flags())) + "\n"
