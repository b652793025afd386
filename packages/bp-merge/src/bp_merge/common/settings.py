"""Knobs: one setting is one field of a frozen dataclass, from which every surface reads it.

- Its keyword, flag, environment name and docs row are read from the field.
- `build` is the only way from what a user gave to settings: keyword, flag, environment and TOML go through it, so
  that a value means the same, and is refused for the same reason, wherever it stands.
- Importing this file loads the standard library only. The flags are made in `flags.py`, which loads click.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import BpError

T = typing.TypeVar("T")


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
    refused: Mapping[str, str] | None = None,
    whole: bool = False,
    hidden: bool = False,
) -> Any:
    """One setting, declared once, as a field of a frozen dataclass.

    Args:
        default: the value when no source gives one.
        help: one sentence for `--help`, the docs table and the UI.
        factory: makes the default instead (mutable values).
        group: heading under which surfaces list it.
        unit: of the value ("tokens", "°C", "s").
        flags: further flags beside `--field-name` ("-m", "--lr"); "/--no-x" names the off side of a bool.
        env: further environment names, whole.
        keywords: further Python keywords.
        choices: the allowed strings, where the type is `str`.
        refused: strings that one may expect among the choices, with why they are not.
        whole: of a tuple, that a comma belongs to the text (paths, prompts); else text is cut at commas.
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
        "refused": dict(refused or {}),
        "whole": whole,
        "hidden": hidden,
    }
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def like(cls: type, name: str, **changes: Any) -> Any:
    """A knob declared elsewhere, taken over as it stands there but for `changes` (arguments of `knob`)."""
    field = next(f for f in dataclasses.fields(cls) if f.name == name)
    return knob(**{"default": field.default, **field.metadata, **changes})


@dataclasses.dataclass(frozen=True)
class Knob:
    """A knob as the surfaces read it: name, bare type, bounds and the metadata of its field."""

    name: str
    type: Any  # the bare type: int, float, bool, str, Path
    optional: bool  # None is allowed
    many: bool  # a tuple of `type`
    default: Any
    bounds: tuple[Any, ...]  # annotated_types objects
    help: str = ""
    group: str = ""
    unit: str = ""
    flags: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    whole: bool = False
    hidden: bool = False

    @classmethod
    def of(cls, name: str, hint: Any, default: Any, metadata: Mapping[str, Any] | None = None) -> Knob:
        """The knob that a type annotation declares: `Annotated[float, Gt(0)] | None`, `tuple[str, ...]`, `Literal[…]`."""
        bounds: tuple[Any, ...] = ()
        optional = False
        told = dict(metadata or {})
        while (origin := typing.get_origin(hint)) in (typing.Annotated, typing.Union, types.UnionType):
            if origin is typing.Annotated:
                hint, *extra = typing.get_args(hint)
                bounds += tuple(extra)
            else:
                rest = [a for a in typing.get_args(hint) if a is not type(None)]
                optional, hint = optional or len(rest) < len(typing.get_args(hint)), rest[0]
        if typing.get_origin(hint) is typing.Literal:
            told["choices"], hint = told.get("choices") or typing.get_args(hint), str
        many = typing.get_origin(hint) is tuple
        if many:
            hint = typing.get_args(hint)[0]
        return cls(name, hint, optional, many, default, bounds, **told)

    @property
    def flag(self) -> str:
        """The flag on a command line."""
        return f"--{self.name.replace('_', '-')}"

    def read(self, value: Any) -> Any:
        """A value as the knob's type, from text too; within its bounds and choices.

        - Text names numbers and switches as people write them: `1e-4`, `1_000`, `on`, `no`.
        - A tuple may be one item, several, a JSON list, or, unless the knob is `whole`, text with commas.
        - None, and of numbers, switches and choices also the text `none`, `auto` or nothing, is None where the knob may
          be None.
        - Choices are found in any case.

        Raises:
            ValueError: with the cause, for what is none of these, and for numbers that are not finite.
        """
        if hasattr(value, "item") and not self.many and not isinstance(value, int | float | str):
            value = value.item()  # a NumPy or torch scalar
        named = self.type in (int, float, bool) or bool(
            self.choices
        )  # none is no file's name and no text there
        words = ("", "none", *(("auto",) if "auto" not in self.choices else ())) if named else ()
        none = isinstance(value, str) and value.strip().lower() in words
        if self.optional and (value is None or none):
            return None
        if not self.many:
            return self._one(value)
        return tuple(self._one(item) for item in self._items(value))

    def _items(self, value: Any) -> list[Any]:
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                found = json.loads(value)
            except json.JSONDecodeError:
                pass  # a text that begins with a bracket
            else:
                if all(isinstance(item, str) for item in found):
                    return found
        if isinstance(value, str | os.PathLike):
            value = [value]
        elif isinstance(value, Mapping) or not isinstance(value, Iterable):
            raise ValueError(f"must be text or a list, not {value!r}")
        items = list(value)
        if self.whole:
            return items
        cut = [item.split(",") if isinstance(item, str) else [item] for item in items]
        stripped = [i.strip() if isinstance(i, str) else i for parts in cut for i in parts]
        return [item for item in stripped if item != ""]

    def _one(self, value: Any) -> Any:
        reader = {bool: _switch, int: _whole_number, float: _number, Path: _path}.get(self.type, _text)
        read = reader(value)
        if self.choices and read not in self.choices:
            near = [c for c in self.choices if c.lower() == read.lower()]
            if not near and read.lower() in self.refused:
                raise ValueError(f"cannot be {read.lower()}: {self.refused[read.lower()]}")
            if not near:
                meant = difflib.get_close_matches(read.lower(), self.choices, 1)
                raise ValueError(
                    f"must be one of {', '.join(self.choices)}, not {value!r}"
                    + (f"; did you mean {meant[0]}?" if meant else "")
                )
            read = near[0]
        for bound in self.bounds:
            for attr, words, holds in (
                ("gt", "greater than", lambda v, b: v > b),
                ("ge", "at least", lambda v, b: v >= b),
                ("lt", "less than", lambda v, b: v < b),
                ("le", "at most", lambda v, b: v <= b),
            ):
                limit = getattr(bound, attr, None)
                if limit is not None and not holds(read, limit):
                    raise ValueError(f"must be {words} {limit}, not {value!r}")
        return read


def _switch(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    found = value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"must be true or false, not {value!r}")
    return found


def _number(value: Any) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        read = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"must be a number, not {_short(value)}") from None
    if not math.isfinite(read):
        raise ValueError(f"must be a finite number, not {value!r}")
    return read


def _whole_number(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return int(value) if isinstance(value, str) else value.__index__()
    except (AttributeError, TypeError, ValueError):
        pass
    try:
        read = _number(value)  # 4.0, "1e3"
    except ValueError as error:
        raise ValueError(str(error).replace("a number", "a whole number")) from None
    if not read.is_integer():
        raise ValueError(f"must be a whole number, not {value!r}")
    return int(read)


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"must be a path, not {value!r}")
    return expanded(value)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with `~` as the home that it names; as it stands where this machine knows no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _text(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ValueError(f"must be text, not {value!r}")
    return str(value)


def _short(value: Any) -> str:
    return text if len(text := repr(value)) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def knobs(cls: type) -> Iterator[Knob]:
    """The knobs of a dataclass, in the order of its fields (fields made without `knob` are skipped)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Knob.of(field.name, hints[field.name], default, field.metadata)


def build(
    cls: type[T],
    given: Mapping[str, Any],
    source: str = "",
    *,
    base: T | None = None,
    code: str = "INPUT_VALIDATION_FAILED",
    command: str = "",
) -> T:
    """The settings that `given` makes: the one way from a keyword, flag, variable or file to a dataclass.

    Args:
        cls: a dataclass of knobs.
        given: values by field name or alias, as text or typed; None is «not given» unless the knob may be None.
        source: where they stand, for the message.
        base: settings that `given` changes; checked as well.
        code: of the refusal.
        command: the command whose help a refusal points to.

    Raises:
        BpError: `code` for an unknown name (with the nearest), a name given twice, or a value that `Knob.read` refuses.
    """
    own = {k.name: getattr(base, k.name) for k in knobs(cls)} if base is not None else {}
    changes = read(cls, given, source, code=code, command=command)
    return cls(**{**read(cls, own, "", code=code, command=command), **changes})


def read(
    cls: type[Any],
    given: Mapping[str, Any],
    source: str = "",
    *,
    prefix: str = "",
    known: Iterable[str] = (),
    code: str = "INPUT_VALIDATION_FAILED",
    command: str = "",
) -> dict[str, Any]:
    """Field → value of what was given, as `build` reads it, without the defaults.

    Args:
        cls: as for `build`.
        given: as for `build`.
        source: as for `build`.
        prefix: before a name in messages ("lora.").
        known: full names among which the nearest of an unknown one is looked for; the class's own unless given.
        code: as for `build`.
        command: as for `build`.

    Raises:
        BpError: as `build`.
    """
    every = {k.name: k for k in knobs(cls)}
    named = {alias: k for k in every.values() for alias in (k.name, *k.keywords)}
    values: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for key, value in given.items():
        k = named.get(key)
        if k is None:
            raise unknown(f"{prefix}{key}", known or named, source, code=code, command=command)
        if value is None and not k.optional:
            continue
        if k.name in values:
            raise BpError(
                code, f"{spelt[k.name]} and {key} are one setting{_from(source)}; both were given", _help(k, command)
            )  # fmt: skip
        try:
            values[k.name] = k.read(value)
        except ValueError as error:
            name = f"{prefix}{k.name}"
            raise BpError(
                code, f"{name} {error}{_from(source)}", _help(k, command), details={"setting": name}
            ) from None
        spelt[k.name] = key
    return values


def unknown(name: str, known: Iterable[str], source: str = "", *, code: str, command: str = "") -> BpError:
    """The refusal of a name that no knob has, with the nearest."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    help = f"{command} --help" if command else f"the settings are {', '.join(sorted(names))}"
    return BpError(
        code,
        f"{source or 'the call'} has no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        help,
        details={"setting": name, "nearest": near},
    )


def _from(source: str) -> str:
    return f" (from {source})" if source else ""


def _help(k: Knob, command: str) -> str:
    if command:
        return f"{command} --help  # {k.flag}"
    return f"use {k.flag} {k.choices[0]}" if k.choices else f"see --help for {k.flag}"
