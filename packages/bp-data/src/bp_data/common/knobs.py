"""Knobs: one setting is one field of a frozen dataclass, from which every surface reads it.

- Its keyword, flag, environment name and docs row are read from the field.
- Importing this file loads the standard library only; click is imported inside the function that needs it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BpError


def knob(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | None = None,
    group: str = "",
    unit: str = "",
    flags: Sequence[str] = (),
    env: Sequence[str] = (),
    keywords: Sequence[str] = (),
    choices: Sequence[str] = (),
    hidden: bool = False,
) -> Any:
    """One setting, declared once, as a field of a frozen dataclass.

    Args:
        default: the value when no source gives one.
        help: one sentence for `--help`, the docs table and the UI.
        factory: makes the default instead (mutable values).
        group: heading under which surfaces list it.
        unit: of the value ("tokens", "°C", "s").
        flags: further flags beside `--field-name` ("-m", "--lr").
        env: further environment names, whole.
        keywords: further Python keywords.
        choices: the allowed strings, where the type is `str`.
        hidden: valid everywhere but left out of `--help`.

    Bounds belong to the type: `Annotated[int, annotated_types.Gt(0)]`.
    """
    metadata = {
        "help": help,
        "group": group,
        "unit": unit,
        "flags": tuple(flags),
        "env": tuple(env),
        "keywords": tuple(keywords),
        "choices": tuple(choices),
        "hidden": hidden,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Knob:
    """A knob as the surfaces read it: name, bare type, bounds and the metadata of its field."""

    name: str
    type: Any  # the bare type: int, float, bool, str, Path, tuple
    optional: bool  # None is allowed
    many: bool  # a tuple of `type`
    default: Any
    bounds: tuple[Any, ...]  # annotated_types objects
    help: str
    group: str
    unit: str
    flags: tuple[str, ...]
    env: tuple[str, ...]
    keywords: tuple[str, ...]
    choices: tuple[str, ...]
    hidden: bool

    def check(self, value: Any) -> None:
        """Raise ValueError where `value` breaks a bound or is not one of the choices."""
        if value is None and self.optional:
            return
        for item in tuple(value or ()) if self.many else (value,):
            if self.choices and item not in self.choices:
                raise ValueError(f"{self.name} must be one of {', '.join(self.choices)}, not {item!r}")
            for bound in self.bounds:
                for attr, sign, holds in (
                    ("gt", ">", lambda v, b: v > b),
                    ("ge", ">=", lambda v, b: v >= b),
                    ("lt", "<", lambda v, b: v < b),
                    ("le", "<=", lambda v, b: v <= b),
                ):
                    limit = getattr(bound, attr, None)
                    if limit is not None and not holds(item, limit):
                        raise ValueError(f"{self.name} must be {sign} {limit}, not {item!r}")


def knobs(cls: type) -> Iterator[Knob]:
    """The knobs of a dataclass, in the order of its fields (fields made without `knob` are skipped)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        hint, bounds = hints[field.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *extra = typing.get_args(hint)
            bounds = tuple(extra)
        optional = False
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            rest = [a for a in typing.get_args(hint) if a is not type(None)]
            optional, hint = len(rest) < len(typing.get_args(hint)), rest[0]
            if typing.get_origin(hint) is typing.Annotated:
                hint, *extra = typing.get_args(hint)
                bounds += tuple(extra)
        choices = field.metadata["choices"]
        if typing.get_origin(hint) is typing.Literal:
            choices, hint = choices or typing.get_args(hint), str
        many = typing.get_origin(hint) is tuple
        if many:
            hint = typing.get_args(hint)[0]
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Knob(
            name=field.name,
            type=hint,
            optional=optional,
            many=many,
            default=default,
            bounds=bounds,
            **{k: v for k, v in field.metadata.items() if k != "choices"},
            choices=choices,
        )


def options(*classes: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Click options for every knob of the dataclasses; a flag that was not given is left out of the keywords.

    The command receives the given values as keywords by field name, so that it can tell «given» from
    «default» (`collect` builds the dataclasses from them). A `bool` becomes `--name/--no-name`, a tuple repeats.
    """
    import click

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for cls in reversed(classes):
            for k in reversed(list(knobs(cls))):
                dashed = k.name.replace("_", "-")
                short = [f for f in k.flags if "/" not in f and not f.startswith("--")]
                others = [f for f in k.flags if "/" not in f and f.startswith("--")]
                if k.type is bool and not k.many:
                    off = [f" {f}" for f in k.flags if f.startswith("/")]
                    decl = [*short, f"--{dashed}/--no-{dashed}", *others, *off]
                    kind: Any = None
                else:
                    decl = [*short, f"--{dashed}", *others]
                    kind = click.Choice(list(k.choices)) if k.choices else _click_type(k)
                shown = (
                    "" if k.default in (None, (), dataclasses.MISSING) else f"  [default: {_show(k.default)}]"
                )
                unit = f" ({k.unit})" if k.unit else ""
                function = click.option(
                    k.name,
                    *decl,
                    type=kind,
                    default=None if not k.many else (),
                    multiple=k.many,
                    help=f"{k.help}{unit}{shown}",
                    hidden=k.hidden,
                )(function)
        return function

    return decorate


def _click_type(k: Knob) -> Any:
    import click

    if k.type is Path:
        return click.Path(path_type=Path)
    return {int: click.INT, float: click.FLOAT, str: click.STRING}.get(k.type, click.STRING)


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def collect(cls: type, given: Mapping[str, Any]) -> Any:
    """Build a dataclass from the keywords of a command, taking out None and empty tuples, with bounds checked.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a value outside its bounds.
    """
    values = {}
    for k in knobs(cls):
        value = given.get(k.name)
        if value is None or (k.many and value == ()):
            continue
        try:
            k.check(value)
        except ValueError as error:
            raise BpError(
                "INPUT_VALIDATION_FAILED", str(error), f"see --help for --{k.name.replace('_', '-')}"
            ) from None
        values[k.name] = value
    return cls(**values)
