"""JSON out of a model's text, and compared by value; rewards and metrics read it here.

- A model's JSON may stand in a code fence or after a `</think>`; it is otherwise taken as it stands, not repaired.
- JSON is compared as JSON: 1 equals 1.0, true does not equal 1, objects have no order, lists have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n(.*?)```", re.S)
MISSING: Any = object()  # a text that holds no JSON: None is the JSON value null


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
