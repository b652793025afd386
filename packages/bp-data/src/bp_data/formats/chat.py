"""Conversations: OpenAI / Hugging Face `messages` and ShareGPT `conversations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import TASKS, Example, new_example, new_turn
from bp_data.formats.base import NO, Fields, Format, Score, finish
from bp_data.formats.sides import TALK, dress
from bp_data.formats.turns import require_target, to_turns


def _score(row: Mapping[str, Any], key: str, role: str) -> Score:
    if key not in row or ("chosen" in row and "rejected" in row):
        return NO
    value = row[key]
    if isinstance(value, list):
        first = value[0] if value else None
        if isinstance(first, Mapping) and role in first:
            return 1.0, f"{key} is a list of objects with {role}"
        if isinstance(first, Mapping) and ("role" in first or "from" in first):
            return 0.9, f"{key} is a list of turns in the other wire form"
        return 0.85, f"there is a list {key}"
    if isinstance(value, str) and value.lstrip().startswith("["):
        return 0.9, f"{key} is a list written as JSON in a string"
    return 0.8, f"there is a field {key}"


def _score_openai(row: Mapping[str, Any]) -> Score:
    return _score(row, "messages", "role")


def _score_sharegpt(row: Mapping[str, Any]) -> Score:
    return max(_score(row, "conversations", "from"), _score(row, "conversation", "from"))


def _quick(row: Mapping[str, Any], source: str, line: int, id: str) -> Example | None:
    """Messages alone, each of a role and a text: most rows of most files, at two thirds of the cost."""
    messages = row.get("messages")
    if len(row) != 1 or type(messages) is not list:
        return None
    turns = []
    answered = False
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role, content = message.get("role"), message.get("content")
        if type(content) is not str or not content or content.isspace():
            return None
        if role == "assistant":
            answered = True
        elif role != "user" and role != "system":
            return None
        turns.append(new_turn(role, content))
    return new_example(id, source, line, "chat", tuple(turns)) if answered else None


def _openai(fields: Fields) -> Example:
    turns = to_turns(fields.pop("messages", None), "messages", fields)
    require_target(turns, "messages")
    if not fields:
        return finish(fields, "chat", turns)
    turns, tools = dress(fields, turns, TALK)
    task = fields.get("task")
    if "reference" in fields and isinstance(task, str) and task in TASKS:  # as `render.to_row` writes it
        del fields["task"]
        text = fields.pop("text") if isinstance(fields.get("text"), str) else ""
        reference = fields.pop("reference")
        return finish(
            fields,
            "chat",
            turns,
            text=text,
            reference=reference,
            task=task,
            tools=tools,
            meta=_grounds(fields, task),
        )
    return finish(fields, "chat", turns, tools=tools)


def _grounds(fields: Fields, task: str) -> dict[str, Any]:
    """What a rendered RAG row says of its prompt once more: no content beside the turns."""
    names = ("contexts", "question") if task == "rag" else ()
    return {name: fields.pop(name) for name in names if name in fields}


def _sharegpt(fields: Fields) -> Example:
    key = "conversations" if "conversations" in fields or "conversation" not in fields else "conversation"
    if key not in fields:
        raise RowError(
            "missing_field", key, 'conversations must be a list of {"from": "human", "value": "…"}'
        )
    turns = to_turns(fields.pop(key), key, fields)
    require_target(turns, key)
    turns, tools = dress(fields, turns, TALK)
    return finish(fields, "chat", turns, tools=tools)


OPENAI = Format(
    "openai",
    ("messages", "chatml", "chat"),
    "messages: [{role, content}], system?, tools?",
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    _score_openai,
    _openai,
    _quick,
)
SHAREGPT = Format(
    "sharegpt",
    ("conversations",),
    "conversations: [{from, value}], system?, tools?",
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    _score_sharegpt,
    _sharegpt,
)
