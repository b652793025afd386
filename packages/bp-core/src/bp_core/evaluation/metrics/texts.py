"""Texts and JSON as metrics see them: normalised the way SQuAD does, parsed in bounded time, compared by value.

- `normalize` is the SQuAD script's: lower case, ASCII punctuation out, the articles a/an/the out as whole words, white
  space to one blank. Other scripts keep their letters; nothing is transliterated.
- A model's JSON may stand in a code fence or after a `</think>`; it is otherwise taken as it stands, not repaired.
- JSON is compared as JSON: 1 equals 1.0, true does not equal 1, objects have no order, lists have.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError

_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_ARTICLES = frozenset({"a", "an", "the"})
_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)```", re.S)
MISSING: Any = object()  # a text that holds no JSON: None is the JSON value null


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


def _twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_json(text: str) -> Any:
    """The JSON value that a text is, or `MISSING`: NaN, Infinity, a key that stands twice and depth without end are none."""
    try:
        return json.loads(text, object_pairs_hook=_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return MISSING


def after_thinking(text: str) -> str:
    """The text after the last `</think>`, or all of it."""
    return text.rsplit("</think>", 1)[-1]


def json_of(prediction: Any, *, fenced: bool = True) -> Any:
    """The JSON value of an answer, or `MISSING`.

    Args:
        prediction: text, or data already parsed.
        fenced: also look into a single code fence, and past `</think>`.
    """
    if prediction is None:
        return MISSING
    if not isinstance(prediction, str):
        return prediction
    found = parse_json(prediction)
    if found is not MISSING or not fenced:
        return found
    answer = after_thinking(prediction)
    fences = _FENCE.findall(answer)
    return parse_json(fences[0] if len(fences) == 1 else answer)


def same_json(a: Any, b: Any) -> bool:
    """Whether two values are equal as JSON; without recursion, so that depth does not matter.

    >>> same_json({"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}), same_json(1, True)
    (True, False)
    """
    work = [(a, b)]
    while work:
        a, b = work.pop()
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if a.keys() != b.keys():
                return False
            work += [(a[key], b[key]) for key in a]
        elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
            if len(a) != len(b):
                return False
            work += list(zip(a, b, strict=True))
        elif isinstance(a, bool) or isinstance(b, bool):
            if a is not b:
                return False
        elif (
            type(a) is not type(b) and not (isinstance(a, int | float) and isinstance(b, int | float))
        ) or a != b:
            return False
    return True
