"""Plain text, and prompts with a reference (reinforcement learning, evaluation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats.base import NO, Fields, Format, Score, finish, text_field
from bp_data.formats.sides import ALL, dress
from bp_data.formats.turns import to_turns

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


def _text(fields: Fields) -> Example:
    key = "text" if "text" in fields or "content" not in fields else "content"
    text = text_field(fields, key)
    del fields[key]
    return finish(fields, "text", text=text)


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


def _prompt(fields: Fields) -> Example:
    name = (
        "messages" if fields.get("prompt") is None and isinstance(fields.get("messages"), list) else "prompt"
    )
    if isinstance(fields.get(name), list):
        turns = to_turns(fields.pop(name), name, fields)
    else:
        turns = (Turn("user", text_field(fields, name)),)
        del fields[name]
    if turns[-1].role == "assistant":
        raise RowError(
            "mistyped_field", f"{name}[{len(turns) - 1}]", "a prompt ends before the assistant's turn"
        )
    turns, tools = dress(fields, turns, ALL - {"reasoning", "weight"})
    key = next((name for name in REFERENCES if name in fields), None)
    reference = fields.pop(key) if key else None
    return finish(fields, "prompt", turns, reference=reference, task="rl" if key else "", tools=tools)


TEXT = Format("text", ("raw", "plain"), "text", {"text": "Two and two make four."}, _score_text, _text)
PROMPT = Format(
    "prompt",
    ("rl", "grpo", "eval"),
    "prompt, reference?",
    {"prompt": "2 + 2?", "reference": "4"},
    _score_prompt,
    _prompt,
)
