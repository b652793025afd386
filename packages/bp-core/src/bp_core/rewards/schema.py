"""JSON out of a text, and whether it fits a JSON schema: the part of the standard that a reward needs, bounded in time.

- Keywords: type, enum, const, properties, required, additionalProperties, items, minItems, maxItems, uniqueItems,
  minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf, allOf, not,
  and `$ref` within the schema. Notes (title, description, …) are passed over; any other keyword is refused by name,
  since a rule that is not looked at would reward what breaks it.
- A pattern has a time limit; a document or a schema nested deeper than 100 does not fit.
- Why not a library: this is asked for each completion of a training step, whose text is hostile; a library's patterns
  have no time limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import regex
from bp_merge.common import BpError

from bp_core.rewards.json_text import MISSING, same_json
from bp_core.rewards.json_text import json_of as metric_json_of

DEPTH = 100
WORK = 200_000  # a schema that refers to itself in several places would take for ever
_NOTES = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "format",
        "$schema",
        "$id",
        "$defs",
        "definitions",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "strict",
    ]
)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int, float), "number": (int, float),
}  # fmt: skip
_NUMBERS = frozenset(
    [
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    ]
)
_KNOWN = frozenset(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "$ref",
    ]
)


def json_of(text: str, *, fences: bool = True) -> Any:
    """The JSON value of a text as the metrics read it, or `MISSING`, also where it is nested deeper than 100."""
    value = metric_json_of(text, fenced=fences)
    return value if depth_within(value, DEPTH) else MISSING


def depth_within(value: Any, limit: int) -> bool:
    """Whether a value is nested at most `limit` deep."""
    level = [value]
    for _ in range(limit):
        level = [
            i for v in level if isinstance(v, list | dict) for i in (v.values() if isinstance(v, dict) else v)
        ]
        if not level:
            return True
    return not level


def check_schema(schema: Any, where: str = "schema", depth: int = 0) -> None:
    """Refuse a schema with a keyword that is not looked at, or of a wrong shape.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping) or depth > DEPTH:
        raise _wrong(f"{where} must be an object" if depth <= DEPTH else f"{where} is nested too deep")
    for key, value in schema.items():
        if key not in _KNOWN and key not in _NOTES:
            raise _wrong(f"{where} has the keyword {key!r}, which this reward does not look at")
        if key in ("properties", "$defs", "definitions"):
            if not isinstance(value, Mapping):
                raise _wrong(f"{where}.{key} must be an object")
            for name, part in value.items():
                check_schema(part, f"{where}.{key}.{name}", depth + 1)
        elif key in ("items", "additionalProperties", "not"):
            check_schema(value, f"{where}.{key}", depth + 1)
        elif key in ("anyOf", "oneOf", "allOf"):
            if not isinstance(value, list) or not value:
                raise _wrong(f"{where}.{key} must be a list")
            for i, part in enumerate(value):
                check_schema(part, f"{where}.{key}[{i}]", depth + 1)
        elif key == "type" and not all(isinstance(t, str) and t in _TYPES for t in _listed(value)):
            raise _wrong(f"{where}.type must be among {', '.join(_TYPES)}")
        elif key in _NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _wrong(f"{where}.{key} must be a number")
        elif key == "pattern":
            _compiled(value)
        elif key in ("required", "enum") and not isinstance(value, list):
            raise _wrong(f"{where}.{key} must be a list")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _compiled(pattern: Any) -> Any:
    try:
        return regex.compile(pattern)
    except (regex.error, TypeError, OverflowError, RecursionError) as error:
        raise _wrong(f"the pattern {pattern!r} cannot be read: {error}") from None


def fits(value: Any, schema: Any, root: Any = None, depth: int = 0, left: list[int] | None = None) -> bool:
    """Whether a JSON value fits a schema that `check_schema` let pass; not so after `WORK` comparisons."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None else root
    left = [WORK] if left is None else left
    left[0] -= 1
    if depth > DEPTH or left[0] < 0:
        return False

    def sub(v: Any, s: Any) -> bool:
        return fits(v, s, root, depth + 1, left)

    if "$ref" in schema and not sub(value, _target(schema["$ref"], root)):
        return False
    kinds = schema.get("type")
    if kinds is not None and not any(_is(value, k) for k in _listed(kinds)):
        return False
    if "enum" in schema and not any(same_json(value, e) for e in schema["enum"]):
        return False
    if "const" in schema and not same_json(value, schema["const"]):
        return False
    if any(not sub(value, s) for s in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(sub(value, s) for s in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(sub(value, s) for s in schema["oneOf"]) != 1:
        return False
    if "not" in schema and sub(value, schema["not"]):
        return False
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(k in value for k in schema.get("required", ())) and all(
            sub(v, known.get(k, other)) for k, v in value.items()
        )
    if isinstance(value, list):
        keys = [json.dumps(v, sort_keys=True) for v in value] if schema.get("uniqueItems") else []
        return (
            _between(len(value), schema, "Items")
            and len(set(keys)) == len(keys)
            and all(sub(v, schema.get("items", True)) for v in value)
        )
    if isinstance(value, str):
        return _between(len(value), schema, "Length") and _matches(schema.get("pattern"), value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (
            value >= schema.get("minimum", value)
            and value <= schema.get("maximum", value)
            and not ("exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])
            and not ("exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"])
        )
    return True


def _between(length: int, schema: Mapping[str, Any], what: str) -> bool:
    return schema.get(f"min{what}", 0) <= length <= schema.get(f"max{what}", length)


def _matches(pattern: str | None, value: str) -> bool:
    if pattern is None:
        return True
    try:
        return _compiled(pattern).search(value, timeout=0.2) is not None
    except TimeoutError:
        return False


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _target(ref: Any, root: Any) -> Any:
    found = root
    for part in str(ref).removeprefix("#").strip("/").split("/") if ref != "#" else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is None or not str(ref).startswith("#"):
        raise _wrong(f"$ref {ref!r} leads nowhere inside the schema")
    return found


def _wrong(message: str) -> BpError:
    return BpError("INPUT_VALIDATION_FAILED", f"json_schema: {message}", "backprop reward show json_schema")
