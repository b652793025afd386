"""A format: how sure a row is of this shape, and how it becomes an `Example`.

- `score` looks at the keys and the value types of one row and gives a confidence with the reason in words.
- `read` takes what it knows out of the row (`Fields`) and ends in `finish`: what is left there is told, key by key, in
  that one place. No reader can leave content out in silence.
- It gives an `Example` or raises `RowError`; it never guesses another format.
- The helpers below read one field each and name the JSON path of what is wrong.
- Arrow fills the absent members of structs with null, and `Dataset.to_json` writes those nulls out; nobody can tell them
  from a row's own. So inside objects null means absent, from every source, and where text is made of the object
  (arguments, declarations, answers, results, contexts) it is told. What was written as a JSON string keeps its nulls,
  for no Arrow has padded it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from bp_data.errors import RowError
from bp_data.example import Example, Kind, Turn, new_example
from bp_data.formats.keys import is_media, left_over
from bp_data.sources.jsonl import check_depth

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
        read: fields → Example by `finish`; raises RowError.
        quick: the same for the commonest row, which has nothing to tell; None where the row is any other.
    """

    name: str
    aliases: tuple[str, ...]
    shape: str
    example: Mapping[str, Any]
    score: Callable[[Mapping[str, Any]], Score]
    read: Callable[[Fields], Example]
    quick: Callable[[Mapping[str, Any], str, int, str], Example | None] | None = None

    def convert(self, row: Mapping[str, Any], source: str, line: int, id: str) -> Example:
        """One row as an Example.

        Raises:
            RowError: with the reason and the JSON path.
        """
        if self.quick is not None and (example := self.quick(row, source, line, id)) is not None:
            return example
        fields = Fields(row)
        fields.seat = (id, source, line)
        return self.read(fields)


class Fields(dict[str, Any]):
    """The fields of a row that nobody has read yet: a reader pops what it takes.

    Attributes:
        seat: id, source and line of the row.
        told: (what, path) pairs about the row, see `Example.told`.
    """

    seat: tuple[str, str, int] = ("", "", 0)
    told: list[tuple[str, str]] | None = None

    def tell(self, what: str, path: str) -> None:
        """Put one thing on the row's account."""
        if self.told is None:
            self.told = []
        self.told.append((what, path))

    def rest(self, left: Mapping[str, Any], path: str = "") -> None:
        """Tell what was not read of an object at `path` ("messages[]"; "" is the row itself).

        Raises:
            RowError: `unsupported_content_part` for pictures, sound and film, which have no text form here.
        """
        for key, value in left.items():
            if what := left_over(key, value):
                where = f"{path}.{key}" if path else key
                if is_media(key):
                    hint = f"only text can be trained on; the text alone: --drop-keys {key}"
                    raise RowError("unsupported_content_part", where, hint)
                self.tell(what, where)


def finish(
    fields: Fields,
    kind: Kind,
    turns: tuple[Turn, ...] = (),
    chosen: tuple[Turn, ...] = (),
    rejected: tuple[Turn, ...] = (),
    *,
    label: bool | None = None,
    text: str = "",
    reference: Any = None,
    task: str = "",
    tools: tuple[Mapping[str, Any], ...] = (),
    meta: Mapping[str, Any] | None = None,
) -> Example:
    """The Example of a row; what its reader left in `fields` is told, and kept as `meta`."""
    id, source, line = fields.seat
    if not fields and fields.told is None:
        return new_example(
            id, source, line, kind, turns, chosen, rejected, label, text, reference, task, tools, meta or {}
        )
    fields.rest(fields)
    return new_example(
        id, source, line, kind, turns, chosen, rejected, label, text, reference, task, tools,
        {**fields, **(meta or {})}, tuple(dict.fromkeys(fields.told or ())),
    )  # fmt: skip


def without_nulls(value: Any, fields: Fields, path: str) -> Any:
    """The value without the null members of objects, at any depth; that there were some is told at `path`."""
    kept = _without_nulls(value)
    if kept != value:
        fields.tell("nulls", path)
    return kept


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


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
            found = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowError(reason, key, f"{key} is a string that starts like JSON and is none") from None
        check_depth(found)
        return found
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
