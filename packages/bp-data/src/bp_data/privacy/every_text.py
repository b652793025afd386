"""Every text of an Example, in one walk: what scans it and what redacts it see the same.

- Walked: turns of every role (content, reasoning, names, tool calls and their ids), both answers of a pair, tools with
  descriptions, enums and defaults, plain text, reference, meta, the id; keys of objects as well as values; whole
  numbers of 12 digits and more, which may be a card's.
- Not walked: `source`, `line`, `kind`, `task` and roles, which say where a row came from and what it is.
- What does not change is handed back as it is, so a walk that only looks builds nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bp_data.example import Example, Turn

Change = Callable[[str, str], str]
_TURN = ("content", "reasoning", "name", "tool_call_id", "tool_calls")
_EXAMPLE = ("id", "turns", "chosen", "rejected", "text", "reference", "tools", "meta")
_LONG = 10**11


def map_texts(example: Example, change: Change) -> Example:
    """The example with every text replaced by `change(text, name)`; the example itself where nothing changed.

    Args:
        example: a row.
        change: given a text and the key under which it stands (empty for turns and lists), the text that replaces it.

    Example:
        >>> row = Example("a:1", "a", 1, "chat", (Turn("system", "key k1"), Turn("user", "hi")))
        >>> map_texts(row, lambda text, name: text.replace("k1", "[KEY]")).turns[0].content
        'key [KEY]'
        >>> map_texts(row, lambda text, name: text) is row
        True
    """
    return _fields(example, _EXAMPLE, change)


def every_text(example: Example) -> tuple[list[str], list[str]]:
    """The texts of an example, and the key under which each stands."""
    texts: list[str] = []
    names: list[str] = []

    def look(text: str, name: str) -> str:
        texts.append(text)
        names.append(name)
        return text

    map_texts(example, look)
    return texts, names


def _fields(value: Any, fields: tuple[str, ...], change: Change) -> Any:
    changed = {}
    for field in fields:
        old = getattr(value, field)
        if field == "id" and old == f"{value.source}:{value.line}":
            continue  # the reader's name for a row without one: nothing that the row says
        if not old:
            continue
        if type(old) is str:  # the common one, spared a call
            new = change(old, "")
            if new != old:
                changed[field] = new
        elif (new := map_value(old, change, "")) is not old:
            changed[field] = new
    return dataclasses.replace(value, **changed) if changed else value


def map_value(value: Any, change: Change, name: str = "") -> Any:
    """A JSON value with every text in it replaced; the value itself where nothing changed."""
    if isinstance(value, str):
        new = change(value, name)
        return value if new == value else new
    if isinstance(value, Turn):
        return _fields(value, _TURN, change)
    if isinstance(value, Mapping):
        changed, out = False, {}
        for key, item in value.items():
            new_key = map_value(key, change, "") if isinstance(key, str) else key
            while new_key is not key and new_key in out:
                new_key += "_"  # two keys that held secrets stay two
            out[new_key] = new = map_value(item, change, key if isinstance(key, str) else "")
            changed = changed or new is not item or new_key is not key
        return out if changed else value
    if isinstance(value, (list, tuple)):
        items = [map_value(item, change, name) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) is int and value >= _LONG:
        text = str(value)
        new = change(text, name)
        return value if new == text else new
    return value
