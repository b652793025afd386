"""Tool calls: the right tools, with the right arguments, compared as JSON.

- A call is `{"name", "arguments"}`; `parameters` for `arguments`, `{"function": {…}}` around it, and arguments as JSON text
  are read too. A list, `{"tool_calls": […]}`, and `<tool_call>…</tool_call>` blocks in text hold several.
- Ids are not compared. Calls are compared in their order, unless `any_order`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError, f1_of_counts, metric
from bp_core.evaluation.metrics.texts import MISSING, json_of, kind_of, parse_json, same_json

SOURCE = "AST match of the Berkeley Function-Calling Leaderboard, on JSON"
Call = tuple[str, Any]  # name, arguments


def _call(item: Any) -> Call | None:
    if not isinstance(item, Mapping):
        return None
    inner = item.get("function")
    if isinstance(inner, Mapping):
        item = inner
    name = item.get("name")
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = parse_json(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, Mapping) else None


def calls_of(value: Any) -> list[Call | None]:
    """The calls of an answer or a reference; None stands for one that cannot be read."""
    if isinstance(value, str) and "<tool_call>" in value:
        blocks = [block.partition("</tool_call>") for block in value.split("<tool_call>")[1:]]
        return [_call(parse_json(text.strip())) if closed else None for text, closed, _ in blocks]
    found = json_of(value)
    if isinstance(found, Mapping) and isinstance(found.get("tool_calls"), list | tuple):
        found = found["tool_calls"]
    if found is MISSING:
        return []
    return [_call(item) for item in (found if isinstance(found, list | tuple) else [found])]


def _wanted(reference: Any) -> list[Call]:
    if reference is None:
        raise BadReferenceError("expected a list of tool calls (empty where none is right), not null")
    calls = calls_of(reference)
    if isinstance(reference, str) and reference.strip() and not calls:
        raise BadReferenceError(f"{reference[:60]!r} holds no tool call")
    if None in calls:
        raise BadReferenceError(
            f"expected tool calls {{name, arguments}}, not {kind_of(reference)} with something else"
        )
    return [c for c in calls if c is not None]


def _same(a: Call | None, b: Call) -> bool:
    return a is not None and a[0] == b[0] and same_json(a[1], b[1])


@metric("tool_calls", family="tools", source=SOURCE)
def tool_calls(
    prediction: Any, reference: Any, context: Sequence[str] = (), *, any_order: bool = False
) -> float:
    """1 where the answer makes the expected calls and no other: names and arguments equal as JSON.

    Args:
        prediction: text with calls, or a list of them.
        reference: the expected calls; an empty list where the right answer calls nothing.
        context: not read.
        any_order: the order of the calls does not matter.

    Example: expected f(x=1); said {"name": "f", "arguments": {"x": 1.0}} → 1, f(x="1") → 0.
    """
    said, wanted = calls_of(prediction), _wanted(reference)
    if len(said) != len(wanted):
        return 0.0
    if not any_order:
        return float(all(_same(a, b) for a, b in zip(said, wanted, strict=True)))
    for call in wanted:  # equality is transitive, so taking the first that fits is enough
        at = next((i for i, other in enumerate(said) if _same(other, call)), None)
        if at is None:
            return 0.0
        said.pop(at)
    return 1.0


@metric("tool_names", family="tools", source=SOURCE, reduce=f1_of_counts)
def tool_names(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int, int]:
    """F1 over all rows of the called names, whatever their arguments: 2·common / (said + expected).

    Example: expected f, g; said f, f → 2·1/(2+2) = 0.5.
    """
    said = Counter(c[0] if c else "" for c in calls_of(prediction))
    wanted = Counter(c[0] for c in _wanted(reference))
    return (said & wanted).total(), said.total(), wanted.total()
