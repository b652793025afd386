"""Shapes that are met often and are no rows to learn from as they stand: each is refused with its own cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import RowError


def refuse_foreign(row: Mapping[str, Any]) -> None:
    """Refuse a shape that is known and cannot be read.

    Raises:
        RowError: `unrecognised_format` with what the shape is and how it becomes rows.
    """
    if cause := foreign(row):
        raise RowError("unrecognised_format", "", cause)


def foreign(row: Mapping[str, Any]) -> str:
    """What a shape is that cannot be read as it stands, and the way out; "" for any other."""
    if "parent_id" in row and ("role" in row or "text" in row):
        return "one message of a tree (parent_id): join each path from the root to a leaf into {messages: [{role, content}, …]}"
    if (
        isinstance(row.get("replies"), list)
        or "message_tree_id" in row
        or isinstance(row.get("mapping"), Mapping)
    ):
        return (
            "a tree of messages: join each path from the root to a leaf into {messages: [{role, content}, …]}"
        )
    if "contents" in row and isinstance(row["contents"], list):
        return "contents of the Gemini API: rename it to messages; a turn is {role, parts: [{text}]}"
    if "premise" in row and "hypothesis" in row:
        fields = '{"templates": {"text": "{premise}\\n{hypothesis}"}, "fields": {"label": "label"}}'
        return f"a pair of sentences with a label: --map-json '{fields}'"
    if ("choices" in row or "options" in row) and ("question" in row or "prompt" in row):
        name = "choices" if "choices" in row else "options"
        asked = "question" if "question" in row else "prompt"
        target = next((k for k in ("answer", "answerKey", "label") if k in row), "answer")
        fields = f'{{"templates": {{"prompt": "{{{asked}}}\\n{{{name}}}", "completion": "{{{target}}}"}}}}'
        return f"a question with choices: --map-json '{fields}'"
    return ""
