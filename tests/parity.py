"""What other tools name, row by row (tests/cli/parity.tsv), and what of it the migration page tells.

- A row is a fact of a document: its kind, where it stands, its name, its value. No sentence of it is kept.
- What a row names is accepted here, or stands in the left column of a table of the page.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

import click

TABLE = Path(__file__).parent / "cli" / "parity.tsv"
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "migration.md"


class Fact(NamedTuple):
    """One row: the document, the kind of name, where it stands, the name, its value or default."""

    source: str
    kind: str
    where: str
    name: str
    value: str

    def __str__(self) -> str:
        return "-".join(part.replace(" ", "_") for part in (self.kind, self.where, self.name) if part)


def facts(kind: str) -> list[Fact]:
    """The rows of one kind."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [
            row for row in (Fact(**line) for line in csv.DictReader(file, delimiter="\t")) if row.kind == kind
        ]


def told(name: str, text: str | None = None) -> bool:
    """Whether the left column of a table of the page names it, as a whole word.

    >>> told("--push", "| `export --push` | `backprop push` |"), told("--pus", "| `export --push` | x |")
    (True, False)
    """
    text = PAGE.read_text("utf-8") if text is None else text
    rows = [line.split("|") for line in text.replace("\\|", "/").splitlines() if line.startswith("|")]
    left = [cells[1] for cells in rows if not cells[2].strip().startswith("the same")]
    whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    return any(whole.search(cell) for cell in left)


def command(path: str) -> click.Command | None:
    """The command of that path below `backprop`, as it is mounted; None where there is none."""
    from bp_cli.root import cli

    found: click.Command | None = cli
    for name in path.split():
        if not isinstance(found, click.Group):
            return None
        found = found.get_command(click.Context(found), name)
    return found


def flag(path: str, name: str) -> click.Option | None:
    """The option of a command that has that flag."""
    owner = command(path)
    for option in owner.params if owner is not None else ():
        if isinstance(option, click.Option) and name in (*option.opts, *option.secondary_opts):
            return option
    return None


def choices(option: click.Option) -> list[str]:
    """The values that an option names, in lower case; none where it takes any text."""
    if isinstance(option.type, click.Choice):
        return [str(choice).lower() for choice in option.type.choices]
    shown = option.metavar or ""
    return shown.strip("[]").lower().split("|") if shown.startswith("[") else []


def default(option: click.Option) -> str:
    """The default that the help shows: text, "off" of a switch, the sentence that tells it, "" for none."""
    help = option.help or ""
    for shown in (re.search(r"\[default: (.*?)\]\s*$", help), re.search(r"Default: (.*)", help)):
        if shown:
            return shown[1]
    if option.is_flag:
        return "on" if option.default is True else "off"
    return (
        ""
        if option.default is None or not isinstance(option.default, str | int | float)
        else str(option.default)
    )
