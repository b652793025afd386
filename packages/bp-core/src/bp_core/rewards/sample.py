"""What a reward is given: one completion with the row that it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion of a row.

    Args:
        completion: the text that is judged.
        reference: the expected answer, any JSON value.
        prompt: what was asked.
        row: further columns of the row.
    """

    completion: str
    reference: Any = None
    prompt: str | None = None
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """The row's columns and `reference`."""
        return {**self.row, "reference": self.reference}


REFERENCES = ("reference", "answer", "expected", "expected_answer", "ground_truth", "solution", "target")


def reference_of(row: Mapping[str, Any]) -> Any:
    """The expected answer of a row: the first column of `REFERENCES` that holds one, else None."""
    return next((row[k] for k in REFERENCES if row.get(k) is not None), None)


def text_of(turns: Any, *, last_user: bool = False) -> str:
    """A prompt or completion as text: a string as it is, of messages the contents of the assistant's, or the last user's.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    if isinstance(turns, str):
        return turns
    if isinstance(turns, Mapping):
        turns = [turns]
    if not isinstance(turns, Sequence):
        return ""
    wanted = "user" if last_user else "assistant"
    said = [_content(t) for t in turns if isinstance(t, Mapping) and t.get("role") == wanted]
    return (said[-1] if said else "") if last_user else "\n".join(said)


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    if isinstance(content, list):  # the parts of a multimodal message
        return "".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping))
    return content if isinstance(content, str) else ""
