"""Rows in the wire formats of other tools, each read back before it counts.

- A format says less than an Example: ShareGPT has no text beside a call, Alpaca no tools and no second answer to learn.
- So no table says what fits. The row is made, read by this package's own reader of that format, and must give the same
  turns, answers, tools, label and text; else it is refused as `shape_cannot_say` and never written changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats import FORMATS

PARTS = ("kind", "turns", "chosen", "rejected", "tools", "label", "text")
FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def to_sharegpt(example: Example) -> dict[str, Any]:
    """`{"conversations": [{"from", "value"}], "system"?, "tools"?}` of a chat.

    Example:
        >>> turns = (Turn("user", "2 + 2?"), Turn("assistant", "4"))
        >>> to_sharegpt(Example("a:1", "a", 1, "chat", turns))["conversations"][1]
        {'from': 'gpt', 'value': '4'}

    Raises:
        RowError: `shape_cannot_say` where the format would lose something of the row.
    """
    talk = []
    for turn in example.turns:
        said: dict[str, Any] = {"from": FROM[turn.role], "value": turn.content}
        if turn.tool_calls:
            calls = [dict(call["function"]) for call in turn.tool_calls]
            said = {"from": "function_call", "value": _json(calls[0] if len(calls) == 1 else calls)}
        if not turn.train:
            said["weight"] = 0
        talk.append(said)
    row: dict[str, Any] = {"conversations": talk}
    if example.tools:
        row["tools"] = _json([dict(tool) for tool in example.tools])
    return _read_back(example, row, "sharegpt")


def to_alpaca(example: Example) -> dict[str, Any]:
    """`{"instruction", "input", "output", "history"?, "system"?}` of a chat of whole questions and answers.

    Example:
        >>> turns = (Turn("user", "2 + 2?"), Turn("assistant", "4"))
        >>> to_alpaca(Example("a:1", "a", 1, "chat", turns))
        {'instruction': '2 + 2?', 'input': '', 'output': '4'}

    Raises:
        RowError: `shape_cannot_say`.
    """
    turns = list(example.turns)
    row: dict[str, Any] = {}
    if turns and turns[0].role == "system":
        row["system"] = turns.pop(0).content
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    if not pairs or len(turns) % 2 or any((q.role, a.role) != ("user", "assistant") for q, a in pairs):
        raise RowError("shape_cannot_say", "turns", "alpaca holds questions and answers in turn")
    question, answer = pairs.pop()
    if pairs:
        row["history"] = [[q.content, a.content] for q, a in pairs]
    row = {"instruction": question.content, "input": "", "output": answer.content, **row}
    return _read_back(example, row, "alpaca")


MAKERS: dict[str, Callable[[Example], dict[str, Any]]] = {"sharegpt": to_sharegpt, "alpaca": to_alpaca}


def _read_back(example: Example, row: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        back = FORMATS[name].convert(json.loads(_json(row)), example.source, example.line, example.id)
    except RowError as error:
        raise RowError(
            "shape_cannot_say", error.field, f"{name} cannot hold this row: {error.hint}"
        ) from None
    for part in PARTS:
        before, after = getattr(example, part), getattr(back, part)
        if part == "turns":
            before, after = tuple(map(_said, before)), tuple(map(_said, after))
        if before != after:
            raise RowError("shape_cannot_say", part, f"read back from {name}, its {part} would differ")
    return row


def _said(turn: Turn) -> dict[str, Any]:
    """A turn without the ids of its calls, which the wire formats give anew."""
    message = {**turn.to_message(), "train": turn.train}
    message.pop("tool_call_id", None)
    message["tool_calls"] = [dict(call["function"]) for call in turn.tool_calls]
    return message


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
