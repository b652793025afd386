"""The formats, in the order in which equal scores are decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_data.errors import BpError
from bp_data.formats.base import Format, Score
from bp_data.formats.chat import OPENAI, SHAREGPT
from bp_data.formats.grounded import RAG
from bp_data.formats.labels import CLASSIFICATION, NER, STRUCTURED
from bp_data.formats.pairs import (
    ALPACA,
    INPUT_OUTPUT,
    INSTRUCTION_RESPONSE,
    PROMPT_COMPLETION,
    PROMPT_RESPONSE,
    QA,
    QUERY_RESPONSE,
)
from bp_data.formats.preference import PREFERENCE, UNPAIRED
from bp_data.formats.text_and_prompt import PROMPT, TEXT

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        UNPAIRED, OPENAI, SHAREGPT, PREFERENCE, NER, STRUCTURED, PROMPT_COMPLETION, ALPACA, RAG, QA, PROMPT_RESPONSE,
        INSTRUCTION_RESPONSE, QUERY_RESPONSE, INPUT_OUTPUT, CLASSIFICATION, PROMPT, TEXT,
    )
}  # fmt: skip
NAMES: tuple[str, ...] = ("auto", *FORMATS, *(alias for f in FORMATS.values() for alias in f.aliases))
CONFIDENT = 0.80


def format_named(name: str) -> Format:
    """The format of a name or alias.

    Raises:
        BpError: `INPUT_FORMAT_UNKNOWN`.
    """
    wanted = name.strip().lower()
    for candidate in FORMATS.values():
        if wanted == candidate.name or wanted in candidate.aliases:
            return candidate
    import difflib

    close = difflib.get_close_matches(wanted, NAMES, 1)
    hint = f"use --format {close[0]}" if close else f"one of auto, {', '.join(FORMATS)}"
    raise BpError("INPUT_FORMAT_UNKNOWN", f"there is no format {name!r}", hint)


def rank(row: Mapping[str, Any]) -> list[tuple[Format, Score]]:
    """Every format that the row could be, best first."""
    scored = [(f, f.score(row)) for f in FORMATS.values()]
    return sorted((pair for pair in scored if pair[1][0] > 0), key=lambda pair: -pair[1][0])
