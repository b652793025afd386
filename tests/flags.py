"""Every flag of every command, one a line: `python tests/flags.py` writes tests/cli/flags.txt from the code.

- The list is what scripts of users rely on. A flag that vanishes fails `tests/cli/test_flags.py`; a new one is added by
  running this file and reading the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

LIST = Path(__file__).parent / "cli" / "flags.txt"


def commands() -> list[tuple[str, click.Command]]:
    """The name and the object of each program."""
    from bp_cli.main import cli
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


def all_flags() -> list[str]:
    """The lines of the list, sorted."""
    return sorted({line for name, command in commands() for line in walk(name, command)})


if __name__ == "__main__":
    LIST.write_text("\n".join(all_flags()) + "\n", encoding="utf-8")
