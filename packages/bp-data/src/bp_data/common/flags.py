"""Flags: the Click options of knobs.

- A flag takes text as it is; `build` reads it, so that a flag means and refuses what a keyword does.
- A flag that was not given is left out, so that a command can tell «given» from «default».
- click is imported when options are made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

from .settings import Knob, build, knobs


def options(*classes: type, **built: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Click options for every knob of the dataclasses.

    Args:
        classes: their given values reach the command as keywords by field name, as text.
        built: keyword of the command → dataclass, which is built from its flags and passed under that keyword.

    A `bool` becomes `--name/--no-name` (`no_name`: `--no-name/--name`), a tuple repeats.
    """
    own = {name: [k.name for k in knobs(cls)] for name, cls in built.items()}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        import click

        @functools.wraps(function)
        def wrapper(*args: Any, **values: Any) -> Any:
            names = {k.name for cls in (*classes, *built.values()) for k in knobs(cls)}
            given = {n: v for n, v in values.items() if n not in names or (v is not None and v != ())}
            command = click.get_current_context().command_path
            for keyword, cls in built.items():
                taken = {n: given.pop(n) for n in own[keyword] if n in given}
                given[keyword] = build(cls, taken, command=command)
            return function(*args, **given)

        return with_options(wrapper, (k for cls in (*classes, *built.values()) for k in knobs(cls)))

    return decorate


def with_options(function: Callable[..., Any], wanted: Iterable[Knob]) -> Callable[..., Any]:
    """A Click command's function with an option per knob, in their order; not given is None, or () of a tuple."""
    for k in reversed(list(wanted)):
        function = option(k)(function)
    return function


def option(k: Knob, **changes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The Click option of one knob; `changes` are arguments of `click.option`."""
    import click

    class Text(click.ParamType):
        """Text as it was typed, with the knob's type as its name and its choices for completion."""

        name = {int: "integer", float: "float"}.get(k.type, "path" if k.type.__name__ == "Path" else "text")

        def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
            from click.shell_completion import CompletionItem

            if not k.choices:
                return [CompletionItem(incomplete, type="file")] if self.name == "path" else []
            return [CompletionItem(c) for c in k.choices if c.startswith(incomplete.lower())]

    short = [f for f in k.flags if "/" not in f and not f.startswith("--")]
    others = [f for f in k.flags if "/" not in f and f.startswith("--")]
    arguments: dict[str, Any] = {"default": None if not k.many else (), "multiple": k.many}
    if k.type is bool and not k.many:
        off = [f" {f}" for f in k.flags if f.startswith("/")]
        opposite = f"--{k.flag[5:]}" if k.name.startswith("no_") else f"--no-{k.flag[2:]}"
        names = [*short, f"{k.flag}/{opposite}", *others, *off]
    else:
        names = [*short, k.flag, *others]
        arguments |= {"type": Text(), "metavar": f"[{'|'.join(k.choices)}]" if k.choices else None}
    shown = "" if k.default in (None, (), dataclasses.MISSING) else f"  [default: {_show(k.default)}]"
    unit = f" ({k.unit})" if k.unit else ""
    arguments |= {"help": f"{k.help}{unit}{shown}", "hidden": k.hidden}
    return click.option(k.name, *names, **{**arguments, **changes})


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
