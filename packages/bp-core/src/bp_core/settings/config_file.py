"""`backprop.toml`, edited: comments and order stay as their author left them.

- A key is `group.name`, a field's name or one of its aliases; a value is read as a flag's would be.
- A file that says something wrong already is refused, not mended.
- TOML has no null: where a number may be absent, the text `none` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from bp_merge.common import BpError, knobs, unknown
from tomlkit.exceptions import TOMLKitError

from bp_core.settings.knobs import GROUPS, KEYWORDS, group_of
from bp_core.settings.resolve import CODE, by_group
from bp_core.support.files import write_atomic

HELP = "backprop config"


def full_name(key: str) -> tuple[str, str]:
    """The group and field that a key means, which may be spelt as in an environment variable.

    >>> full_name("lr"), full_name("training.lr"), full_name("steps")
    (('training', 'learning_rate'), ('training', 'learning_rate'), ('training', 'steps'))
    >>> full_name("MODEL__NAME"), full_name("BACKPROPAGATE_LORA__R")
    (('model', 'model'), ('lora', 'rank'))

    Raises:
        BpError: `CONFIG_INVALID_SETTING` with the nearest name.
    """
    if "__" in key:
        key = key.removeprefix("BACKPROPAGATE_").replace("__", ".").lower()
    group, dot, name = key.rpartition(".")
    found = KEYWORDS.get(name)
    if found is not None and dot and group_of(found) != group:
        raise BpError(
            CODE, f"{key} is {group_of(found)}.{found} here", f"{HELP} show {group_of(found)}.{found}"
        )
    if found is None:
        names = [f"{g}.{k.name}" for g, c in GROUPS.items() for k in knobs(c)]
        raise unknown(key, [*names, *KEYWORDS], code=CODE, command=f"{HELP} show")
    return group_of(found), found


def set_values(file: Path, values: Mapping[str, Any], *, write: bool = True) -> dict[str, Any]:
    """Set keys in a settings file, which is made where there is none.

    Args:
        file: the TOML file.
        values: key → value, typed or as text.
        write: False only tells what would be set.

    Returns:
        `group.name` → the value as it was read.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for a key or value; `CONFIG_FILE_UNREADABLE` for a broken file. Nothing is
            written then.
    """
    document = _open(file)
    told = {}
    named = {full_name(key): value for key, value in values.items()}
    for (group, name), value in named.items():
        read = by_group({group: {name: value}}, "")[group].get(name)
        table = document.get(group)
        if not isinstance(table, dict):
            table = document[group] = tomlkit.table()
        for spelt in _spellings(group, name):
            if spelt != name:
                table.pop(spelt, None)
        table[name] = _toml(read)
        told[f"{group}.{name}"] = _toml(read)
    if write:
        write_file(file, tomlkit.dumps(document))
    return told


def unset_values(file: Path, keys: Iterable[str], *, write: bool = True) -> list[str]:
    """Take keys out of a settings file; returns those (`group.name`) that stood there; `write=False` only tells them.

    Raises:
        BpError: as `set_values`.
    """
    document = _open(file)
    gone = []
    for group, name in map(full_name, keys):
        table = document.get(group)
        found = [s for s in _spellings(group, name) if isinstance(table, dict) and s in table]
        for spelt in found:
            del table[spelt]  # type: ignore[union-attr]
        if found:
            gone.append(f"{group}.{name}")
        if isinstance(table, dict) and not table:
            del document[group]
    if gone and write:
        write_file(file, tomlkit.dumps(document))
    return gone


def template() -> str:
    """A settings file with every knob as a comment: its meaning, and its default where there is one."""
    return "\n".join(_template())


def _template() -> Iterator[str]:
    yield "# Settings of backprop; what is commented out is as it is by default."
    yield "# Stronger than this file: .env, BACKPROPAGATE_… variables, flags. See: backprop config show --origin"
    for group, cls in GROUPS.items():
        yield f"\n[{group}]"
        for k in knobs(cls):
            if k.hidden:
                continue
            choices = f" One of {', '.join(k.choices)}." if k.choices else ""
            unit = f" ({k.unit})" if k.unit else ""
            yield f"# {k.help}{unit}{choices}"
            open_end = k.default is None or k.default == ()
            yield f"# {k.name} =" + ("" if open_end else f" {tomlkit.item(_toml(k.default)).as_string()}")
    yield ""


def _spellings(group: str, name: str) -> list[str]:
    return [alias for alias, field in KEYWORDS.items() if field == name and group_of(field) == group]


def _toml(value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, Path):
        return value.as_posix()
    return [_toml(v) for v in value] if isinstance(value, tuple) else value


def _open(file: Path) -> tomlkit.TOMLDocument:
    try:
        document = tomlkit.parse(file.read_bytes().decode()) if file.exists() else tomlkit.document()
    except (TOMLKitError, ValueError, OSError) as error:
        raise BpError(
            "CONFIG_FILE_UNREADABLE", f"{file.name}: {error}", f"correct {file.name}, or move it away"
        ) from None
    by_group(document.unwrap(), file.name)
    return document


def write_file(file: Path, text: str) -> None:
    """Write a settings file, whole or not at all.

    Raises:
        BpError: `CONFIG_FILE_UNWRITABLE`.
    """
    try:
        write_atomic(file, text)
    except OSError as error:
        raise BpError(
            "CONFIG_FILE_UNWRITABLE",
            f"{file}: {error.strerror or error}",
            f"make {file.absolute().parent} writable",
        ) from None
