"""Conversations: OpenAI / Hugging Face `messages` and ShareGPT `conversations`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import TASKS, Example, new_example
from bp_data.formats.base import NO, Format, Score, rest, system_turn
from bp_data.formats.turns import require_target, to_turns, tool_declarations

_OPENAI = ("messages", "tools", "functions", "parallel_tool_calls")
_SHAREGPT = ("conversations", "conversation", "system", "tools")


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


def _openai(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    turns = to_turns(row.get("messages"), "messages")
    require_target(turns, "messages")
    if len(row) == 1:
        return new_example(id, source, line, "chat", turns)
    tools = tool_declarations(row.get("tools") or row.get("functions"))
    task = row.get("task")
    if "reference" in row and isinstance(task, str) and task in TASKS:  # as `render.to_row` writes it
        used = (*_OPENAI, "task", "reference", "text")
        text = row.get("text") if isinstance(row.get("text"), str) else ""
        return new_example(
            id, source, line, "chat", turns, text=text or "", reference=row["reference"], task=task, tools=tools,
            meta=rest(row, used),
        )  # fmt: skip
    return new_example(id, source, line, "chat", turns, tools=tools, meta=rest(row, _OPENAI))


def _sharegpt(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    key = "conversations" if "conversations" in row or "conversation" not in row else "conversation"
    if key not in row:
        raise RowError(
            "missing_field", key, 'conversations must be a list of {"from": "human", "value": "…"}'
        )
    turns = to_turns(row[key], key)
    require_target(turns, key)
    if turns[0].role != "system":
        turns = system_turn(row) + turns
    return new_example(
        id, source, line, "chat", turns, tools=tool_declarations(row.get("tools")), meta=rest(row, _SHAREGPT)
    )


OPENAI = Format(
    "openai",
    ("messages", "chatml", "chat"),
    "messages: [{role, content}], tools?",
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    _score_openai,
    _openai,
)
SHAREGPT = Format(
    "sharegpt",
    ("conversations",),
    "conversations: [{from, value}], system?, tools?",
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
    _score_sharegpt,
    _sharegpt,
)
