"""Whether a hint is what it promises: a command of ours that exists, with flags that it has, or a plain sentence."""

from __future__ import annotations

import re
import shlex

import click

OURS = re.compile(r"(?:^|(?<=[:(] )|(?<=[(:, ]))(backprop|bp-merge|bp-data|bp-export)(?= [a-z-])[^;`]*")


def root(program: str) -> click.Command:
    """The click command of a program."""
    if program == "backprop":
        from bp_cli.root import cli
    elif program == "bp-merge":
        from bp_merge.cli import cli
    elif program == "bp-data":
        from bp_data.cli import cli
    else:
        from bp_export.cli.main import cli
    return cli


def words(text: str) -> list[str]:
    """The words of a command; up to a remark in brackets."""
    text = re.split(r" \(|  |, (?:or|and|then) ", text)[0].rstrip(" ,.)")
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def problem(hint: str) -> str:
    """What is wrong with a hint, "" where nothing is."""
    if not hint:
        return "there is none"
    if "…" in hint.replace('"…"', ""):
        return "it holds an ellipsis"
    if hint.startswith("-"):
        return "a flag alone is no command"
    if re.search(r"check the (path|name)\b(?! of)", hint):
        return "it says to check, not what"
    if "\n" in hint:
        return "it has two lines"
    for found in OURS.finditer(hint):
        if wrong := _command(words(found.group())):
            return f"{found.group()!r}: {wrong}"
    return ""


def _command(given: list[str]) -> str:
    program, *rest = given
    command = root(program)
    context = click.Context(command, info_name=program)
    flags = _flags(command)
    value = False  # whether the next word belongs to the flag before it
    for word in rest:
        if value:
            value = False
        elif word.startswith("-") and not re.fullmatch(r"-+\d.*|-", word):
            name = word.split("=")[0]
            if name not in flags:
                return f"{command.name} has no {word}"
            value = flags[name] and "=" not in word
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"{command.name} has no command {word}"
            command, flags = found, _flags(found)
            context = click.Context(command, info_name=word, parent=context)
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return f"{command.name} needs a command"
    return ""


def _flags(command: click.Command) -> dict[str, bool]:
    """Flag → whether it takes a value."""
    found = {
        o: isinstance(p, click.Option) and not p.is_flag and not p.count
        for p in command.params
        for o in (*p.opts, *p.secondary_opts)
    }
    return {"--help": False, "-h": False, **found}
