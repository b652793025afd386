"""Texts and JSON as metrics see them: normalised the way SQuAD does, parsed in bounded time, compared by value.

- `normalize` is the SQuAD script's: lower case, ASCII punctuation out, the articles a/an/the out as whole words, white
  space to one blank. Other scripts keep their letters; nothing is transliterated.
- How JSON is read out of an answer and compared stands in `bp_core.rewards.json_text`.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError
from bp_core.rewards.json_text import MISSING, after_thinking, json_of, parse_json, same_json

__all__ = [
    "MISSING",
    "accepted",
    "after_thinking",
    "json_of",
    "kind_of",
    "normalize",
    "parse_json",
    "same_json",
    "text_of",
    "tokens_of",
]

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLES = frozenset({"a", "an", "the"})


def text_of(value: Any) -> str:
    """A prediction as text: None is empty, JSON-able data its JSON, anything else `str`."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return ""


def accepted(reference: Any) -> tuple[str, ...]:
    """A reference as the texts that are right: one text (or number, or boolean), or a list of them.

    Raises:
        BadReferenceError: it is None, empty, an object, or a list that holds no text.
    """
    if isinstance(reference, bool | int | float):
        return (json.dumps(reference),)
    if isinstance(reference, str):
        return (reference,)
    if isinstance(reference, Sequence) and reference:
        return tuple(text for item in reference for text in _scalar(item))
    raise BadReferenceError(f"expected a text or a list of texts, not {_kind(reference)}")


def _scalar(item: Any) -> tuple[str, ...]:
    if isinstance(item, str | bool | int | float):
        return accepted(item)
    raise BadReferenceError(f"expected a list of texts, but it holds {_kind(item)}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return type(value).__name__


kind_of = _kind


def normalize(text: str) -> str:
    """A text as the SQuAD script compares it.

    >>> normalize("The  Eiffel-Tower, in Paris!")
    'eiffeltower in paris'
    """
    return " ".join(t for t in text.lower().translate(_PUNCTUATION).split() if t not in _ARTICLES)


def tokens_of(text: str) -> list[str]:
    """The words of a text, normalised."""
    return normalize(text).split()
