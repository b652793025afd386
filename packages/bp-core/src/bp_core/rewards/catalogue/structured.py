"""Rewards for JSON: that it is JSON, that it fits a schema, that it holds the expected fields, that it calls the tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bp_merge.common import BpError

from bp_core.rewards.json_text import MISSING, same_json
from bp_core.rewards.reward import Case, reward
from bp_core.rewards.schema import check_schema, fits, json_of
from bp_core.rewards.text import said

_PERSON = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}


@reward(
    cases=(
        Case('{"a": 1}', 1.0),
        Case("[1, 2]", 1.0),
        Case('```json\n{"a": 1}\n```', 1.0),
        Case('```json\n{"a": 1}\n```', 0.0, parameters={"fences": False}),
        Case("7", 0.0, why="a bare value is no document"),
        Case("7", 1.0, parameters={"document": False}),
        Case('Here: {"a": 1}', 0.0),
        Case('{"a": NaN}', 0.0),
        Case('{"a": 1, "a": 2}', 0.0, why="a key stands twice"),
        Case("[" * 5000, 0.0),
        Case("", 0.0),
    )
)
def json_valid(completion: str, *, fences: bool = True, document: bool = True) -> float:
    """1 where the text, or its only fenced block, is JSON, else 0.

    `document` asks for an object or a list; without `fences` a fenced block does not count. JSON nested deeper than 100
    gives 0.
    """
    value = json_of(completion, fences=fences)
    return float(value is not MISSING and (not document or isinstance(value, dict | list)))


@reward(
    cases=(
        Case('{"name": "Ada", "age": 36}', 1.0, parameters={"schema": _PERSON}),
        Case('{"name": "Ada"}', 1.0, row={"schema": _PERSON}, why="the row's own schema"),
        Case(
            '{"name": "Ada", "age": "36"}',
            0.2 + 0.8 / 2,
            parameters={"schema": _PERSON},
            why="one of two properties",
        ),
        Case('{"age": 36}', 0.2 + 0.8 / 2, parameters={"schema": _PERSON}, why="the other is missing"),
        Case('{"age": 36}', 0.0, parameters={"schema": _PERSON, "partial": False}),
        Case("[]", 0.2, parameters={"schema": _PERSON}, why="JSON, of another type"),
        Case("no", 0.0, parameters={"schema": _PERSON}),
        Case("", 0.0, parameters={"schema": _PERSON}),
    )
)
def json_schema(
    completion: str,
    *,
    row: Mapping[str, Any] | None = None,
    schema: dict[str, Any] | str = "",
    partial: bool = True,
    fences: bool = True,
) -> float:
    """1 where the JSON fits the schema; with `partial` 0.2 for JSON and up to 0.8 for the properties that fit.

    `schema` is a table or JSON text; without one the column `schema` of the row. A keyword that is not looked at is
    refused. A property that is required and missing, and each key that the schema forbids, count as wrong.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for no schema, or one that cannot be used.
    """
    wanted = _schema(schema or (row or {}).get("schema") or "")
    value = json_of(completion, fences=fences)
    if value is MISSING:
        return 0.0
    if fits(value, wanted):
        return 1.0
    if not partial:
        return 0.0
    properties: Mapping[str, Any] = wanted.get("properties", {})
    if not isinstance(value, dict) or not properties:
        return 0.2
    required = set(wanted.get("required", ()))
    judged = {k for k in properties if k in value or k in required} | {
        k for k in value if k not in properties and wanted.get("additionalProperties", True) is False
    }
    good = sum(1 for k in judged if k in value and k in properties and fits(value[k], properties[k], wanted))
    # everything fits and yet the whole does not (a rule over several properties): not all of the credit
    return 0.2 + 0.8 * min(good, max(len(judged) - 0.5, 0)) / max(len(judged), 1)


def _schema(given: Any) -> dict[str, Any]:
    cause = "json_schema needs a schema: an object, or its JSON text, as a parameter or in the column schema"
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            raise BpError("INPUT_VALIDATION_FAILED", cause, "backprop reward show json_schema") from None
    if not isinstance(given, Mapping):
        raise BpError("INPUT_VALIDATION_FAILED", cause, "backprop reward show json_schema")
    check_schema(given)
    return dict(given)


@reward(
    cases=(
        Case('{"name": "Ada", "age": 36}', 1.0, {"name": "Ada", "age": 36}),
        Case('{"name": "Ada", "age": 37}', 0.5, {"name": "Ada", "age": 36}),
        Case('{"name": "Ada"}', 0.5, '{"name": "Ada", "age": 36}', why="the reference may be JSON text"),
        Case(
            '{"name": "Ada", "age": 36, "x": 1}',
            2 / 3,
            {"name": "Ada", "age": 36},
            why="an invented key counts against it",
        ),
        Case('{"a": {"b": 1, "c": 2}}', 0.5, {"a": {"b": 1, "c": 3}}, why="nested"),
        Case("[1, 2]", 1.0, [1, 2]),
        Case("no", 0.0, {"name": "Ada"}),
        Case("", 0.0, {"name": "Ada"}),
    )
)
def json_fields(completion: str, *, reference: Any, fences: bool = True) -> float:
    """Share of the leaves that text and reference have in common: |both| / |either|, paths and values equal.

    1 is equality; 1 and 1.0 are equal, 1 and true are not. A list is compared item by item.
    """
    if isinstance(reference, str):
        reference = json_of(reference)
    value = json_of(completion, fences=fences)
    if value is MISSING or reference is MISSING:
        return 0.0
    a, b = dict(_leaves(value)), dict(_leaves(reference))
    both = sum(1 for path, leaf in a.items() if path in b and same_json(leaf, b[path]))
    return both / len(a.keys() | b.keys())


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    parts = list(items)
    if not parts:
        yield path, value
    for key, part in parts:
        yield from _leaves(part, (*path, key))


_WEATHER = {"name": "weather", "arguments": {"city": "Rome", "days": 2}}


@reward(
    cases=(
        Case(
            '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>',
            1.0,
            _WEATHER,
        ),
        Case('{"name": "weather", "arguments": {"city": "Rome", "days": 2}}', 1.0, _WEATHER),
        Case(
            '{"name": "weather", "arguments": {"city": "Rome"}}', 0.75, _WEATHER, why="one of two arguments"
        ),
        Case('{"name": "news", "arguments": {"city": "Rome", "days": 2}}', 0.0, _WEATHER, why="another tool"),
        Case(
            '{"name": "weather", "arguments": "{\\"city\\": \\"Rome\\", \\"days\\": 2}"}',
            1.0,
            _WEATHER,
            why="as text",
        ),
        Case("It will rain.", 0.0, _WEATHER),
        Case("It will rain.", 1.0, [], why="no call was wanted"),
        Case('{"name": "weather", "arguments": {}}', 0.0, [], why="and one was made"),
        Case("", 0.0, _WEATHER),
    )
)
def tool_call(completion: str, *, reference: Any) -> float:
    """For each expected call, in order: 0.5 for the tool's name and 0.5 × the share of arguments that agree.

    The sum is divided by the larger number of calls, made or wanted. Calls are read from `<tool_call>` blocks, else
    from a text that is JSON: `{"name", "arguments"}`, or with `function` around it, or a list of these. The reference
    is a call, a list of calls, or JSON text of either; an empty list says that no call is right.
    """
    if isinstance(reference, str):
        reference = json_of(reference)
    made, wanted = _calls_in(completion), _calls(reference)
    if not wanted:
        return float(not made and reference is not MISSING)
    total = 0.0
    for (name, arguments), (right, values) in zip(made, wanted, strict=False):
        if name == right:
            keys = arguments.keys() | values.keys()
            agree = sum(
                1 for k in keys if k in arguments and k in values and same_json(arguments[k], values[k])
            )
            total += 0.5 + 0.5 * (agree / len(keys) if keys else 1.0)
    return total / max(len(made), len(wanted))


def _calls_in(text: str) -> list[tuple[str, dict[str, Any]]]:
    text = said(text)
    pieces = text.split("</tool_call>")[:-1]
    blocks = [p.rpartition("<tool_call>")[2] for p in pieces if "<tool_call>" in p] if pieces else [text]
    return [call for block in blocks if (value := json_of(block)) is not MISSING for call in _calls(value)]


def _calls(value: Any) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for item in value if isinstance(value, list) else [value]:
        inner = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            continue
        arguments = inner.get("arguments", inner.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = json_of(arguments)
        found.append((inner["name"], dict(arguments) if isinstance(arguments, Mapping) else {}))
    return found
