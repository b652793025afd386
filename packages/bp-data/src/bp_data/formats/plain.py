"""Plain text, and prompts with a reference (reinforcement learning, evaluation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn, new_example
from bp_data.formats.base import NO, Format, Score, rest, system_turn, text_field
from bp_data.formats.turns import to_turns, tool_declarations

REFERENCES = (
    "reference",
    "references",
    "solution",
    "canonical_solution",
    "ground_truth",
    "expected",
    "target",
    "answer",
)
_OTHERS = frozenset(
    [
        "messages",
        "conversations",
        "chosen",
        "rejected",
        "prompt",
        "completion",
        "response",
        "instruction",
        "output",
        "question",
        "answer",
        "label",
        "labels",
        "tags",
        "ner_tags",
        "spans",
        "entities",
    ]
)


def _score_text(row: Mapping[str, Any]) -> Score:
    key = "text" if "text" in row else "content" if "content" in row else None
    if key is None or not isinstance(row[key], str):
        return NO
    if _OTHERS & row.keys():
        return 0.4, f"has {key} beside structured fields"
    if key == "content":
        return 0.85, "has content, read as plain text"
    return (1.0, "has text alone") if len(row) == 1 else (0.9, "has text and no structured field")


def _text(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    key = "text" if "text" in row or "content" not in row else "content"
    text = text_field(row, key)
    meta = rest(row, (key,)) if len(row) > 1 else {}
    return new_example(id, source, line, "text", text=text, meta=meta)


def _score_prompt(row: Mapping[str, Any]) -> Score:
    if "prompt" not in row or any(
        k in row for k in ("completion", "response", "output", "chosen", "rejected", "messages")
    ):
        return NO
    key = next((name for name in REFERENCES if name in row), None)
    if key is None:
        return 0.85, "has a prompt and no completion: for generation or a reward"
    if key == "answer":
        return 0.6, "has prompt and answer: a reference for a reward, or a completion to learn"
    return 0.9, f"has a prompt and the reference {key}"


def _prompt(row: dict[str, Any], source: str, line: int, id: str) -> Example:
    value = row.get("prompt")
    if value is None and isinstance(row.get("messages"), list):
        value = row["messages"]
    turns = (
        to_turns(value, "prompt") if isinstance(value, list) else (Turn("user", text_field(row, "prompt")),)
    )
    if turns[-1].role == "assistant":
        raise RowError(
            "mistyped_field", f"prompt[{len(turns) - 1}]", "a prompt ends before the assistant's turn"
        )
    if turns[0].role != "system":
        turns = system_turn(row) + turns
    key = next((name for name in REFERENCES if name in row), None)
    meta = rest(row, ("prompt", "system", "tools", key))  # pyright: ignore
    return new_example(
        id, source, line, "prompt", turns, reference=row[key] if key else None, task="rl" if key else "",
        tools=tool_declarations(row.get("tools")), meta=meta,
    )  # fmt: skip


TEXT = Format("text", ("raw", "plain"), "text", {"text": "Two and two make four."}, _score_text, _text)
PROMPT = Format(
    "prompt",
    ("rl", "grpo", "eval"),
    "prompt, reference?",
    {"prompt": "2 + 2?", "reference": "4"},
    _score_prompt,
    _prompt,
)
