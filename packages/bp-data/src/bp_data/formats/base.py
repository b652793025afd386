"""A format: how sure a row is of this shape, and how it becomes an `Example`.

- `score` looks at the keys and the value types of one row and gives a confidence with the reason in words.
- `convert` gives an `Example` or raises `RowError`; it never guesses another format.
- The helpers below read one field each and name the JSON path of what is wrong.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from bp_data.errors import RowError
from bp_data.example import Example, Turn

Score = tuple[float, str]
NO: Score = (0.0, "")


@dataclasses.dataclass(frozen=True)
class Format:
    """One shape of rows.

    Args:
        name: what `--format` and reports call it.
        aliases: further names for it.
        shape: its keys in words, for hints and the reference page.
        example: a correct row.
        score: row → (confidence in [0, 1], rationale).
        convert: (row, source, line, id) → Example; raises RowError.
    """

    name: str
    aliases: tuple[str, ...]
    shape: str
    example: Mapping[str, Any]
    score: Callable[[Mapping[str, Any]], Score]
    convert: Callable[[dict[str, Any], str, int, str], Example]


def rest(row: Mapping[str, Any], used: Iterable[str]) -> dict[str, Any]:
    """What the format did not use, kept as `meta`."""
    return {key: value for key, value in row.items() if key not in used}


def text_field(row: Mapping[str, Any], key: str, *, reason: str = "empty_field", strip: bool = False) -> str:
    """A non-empty string (numbers and booleans are written out).

    Raises:
        RowError: `missing_field`, `mistyped_field`, or `reason` where it is empty.
    """
    value = row.get(key)
    if type(value) is not str:
        if value is None:
            raise RowError("missing_field", key, f"{key} must be a text, it is absent or null")
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        raise RowError("mistyped_field", key, f"{key} must be a text, not {kind_of(value)}")
    if not value or value.isspace():
        raise RowError(reason, key, f"{key} must not be empty")
    return value.strip() if strip else value


def optional_text(row: Mapping[str, Any], key: str) -> str:
    """The text of a field, or "" where it is absent, null or empty."""
    value = row.get(key)
    if value is None or value == "":
        return ""
    return text_field({key: value}, key) if not (isinstance(value, str) and value.isspace()) else ""


def from_json(value: Any, key: str, reason: str = "mistyped_field") -> Any:
    """A value that may have been written as JSON in a string (CSV cells, nested exports)."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowError(reason, key, f"{key} is a string that starts like JSON and is none") from None
    return value


def to_json(value: Any) -> str:
    """A value as compact JSON; integers beyond 64 bits stay exact."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def kind_of(value: Any) -> str:
    """The JSON type of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return (
        "a list"
        if isinstance(value, list | tuple)
        else "an object"
        if isinstance(value, Mapping)
        else type(value).__name__
    )


def system_turn(row: Mapping[str, Any], key: str = "system") -> tuple[Turn, ...]:
    """The system prompt of a row as a leading turn, where there is one."""
    text = optional_text(row, key) if key in row else ""
    return (Turn("system", text),) if text else ()
