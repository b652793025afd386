"""Structured answers: JSON objects compared field by field, and JSON held to a schema.

- A field is a leaf of the reference object, named by its path (`address.city`); a list is one field, compared whole and in
  order; an empty object is a leaf. Values are equal as JSON: 1 equals 1.0, "1" does not equal 1.
- An answer that is no JSON object has every field missing.
- The schema library is the extra `bp-core[eval]`. No schema is fetched: a reference to another address is refused.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import Array, BadReferenceError, Case, UnscoredError, metric, ratio
from bp_core.evaluation.metrics.extra import need
from bp_core.evaluation.metrics.texts import MISSING, json_of, kind_of, parse_json, same_json

SOURCE = "field-wise comparison of JSON leaves"


def fields_of(value: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The leaves of an object by path; without recursion, so that depth does not matter."""
    out: dict[tuple[str, ...], Any] = {}
    work: list[tuple[tuple[str, ...], Any]] = [((), value)]
    while work:
        path, item = work.pop()
        if isinstance(item, Mapping) and (item or not path):
            if len(path) > 100:
                raise UnscoredError("an object is nested more than 100 deep")
            work += [((*path, str(key)), inner) for key, inner in item.items()]
        else:
            out[path] = item
    return out


def _wanted(reference: Any) -> dict[tuple[str, ...], Any]:
    found = parse_json(reference) if isinstance(reference, str) else reference
    if not isinstance(found, Mapping):
        raise BadReferenceError(f"expected an object, not {kind_of(reference)}")
    try:
        return fields_of(found)
    except UnscoredError as error:
        raise BadReferenceError(str(error)) from None


def _said(prediction: Any) -> dict[tuple[str, ...], Any] | None:
    found = json_of(prediction)
    return fields_of(found) if isinstance(found, Mapping) else None


def compare_fields(prediction: Any, reference: Any) -> dict[str, list[str]]:
    """The paths that are right, wrong, missing and extra in an answer."""
    wanted, said = _wanted(reference), _said(prediction)
    got = said or {}
    named = {path: ".".join(path) for path in (*wanted, *got)}
    return {
        "right": [named[p] for p, v in wanted.items() if p in got and same_json(got[p], v)],
        "wrong": [named[p] for p, v in wanted.items() if p in got and not same_json(got[p], v)],
        "missing": [named[p] for p in wanted if p not in got],
        "extra": [named[p] for p in got if p not in wanted],
        "unreadable": [] if said is not None else [""],
    }


def field_table(cases: Sequence[Case]) -> dict[str, Any]:
    """Per-field accuracy over the rows that expect it, and how often each field was missing or extra."""
    table: dict[str, Counter[str]] = {}
    unreadable = 0
    for case in cases:
        try:
            found = compare_fields(case.prediction, case.reference)
        except UnscoredError:
            found = compare_fields("", case.reference)
        unreadable += len(found.pop("unreadable"))
        for part, names in found.items():
            for name in names:
                table.setdefault(name, Counter())[part] += 1
    rows = {}
    for name, c in sorted(table.items()):
        expected = c["right"] + c["wrong"] + c["missing"]
        rows[name] = {
            "accuracy": c["right"] / expected if expected else None,
            **{part: c[part] for part in ("right", "wrong", "missing", "extra")},
        }
    return {"per_field": rows, "unreadable": unreadable}


def _share(stats: Array) -> Array:
    return ratio(stats[..., 0], stats[..., 1], empty=1.0)


@metric("field_accuracy", family="structured", source=SOURCE, reduce=_share, details=field_table)
def field_accuracy(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int]:
    """Share of the expected fields, over all rows, whose value is right.

    Example: expected {"a": 1, "b": {"c": "x"}}; said {"a": 1.0, "b": {"c": "y"}} → 1/2.
    """
    wanted = _wanted(reference)
    return len(compare_fields(prediction, reference)["right"]), len(wanted)


@metric("object_match", family="structured", source=SOURCE, details=field_table)
def object_match(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """1 where every expected field is right and there is no other.

    Example: expected {"a": 1}; said {"a": 1, "b": 2} → 0.
    """
    found = compare_fields(prediction, reference)
    return float(not any(found[part] for part in ("wrong", "missing", "extra", "unreadable")))


@metric("missing_fields", family="structured", source=SOURCE, high=float("inf"), better="lower")
def missing_fields(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """Mean number of expected fields that an answer lacks. Range [0, ∞), lower is better.

    Example: expected {"a": 1, "b": 2}; said {"a": 5} → 1.
    """
    return float(len(compare_fields(prediction, reference)["missing"]))


@metric("extra_fields", family="structured", source=SOURCE, high=float("inf"), better="lower")
def extra_fields(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """Mean number of fields of an answer that were not expected. Range [0, ∞), lower is better.

    Example: expected {"a": 1}; said {"a": 1, "z": 0} → 1.
    """
    return float(len(compare_fields(prediction, reference)["extra"]))


@metric("json_valid", family="structured", source="RFC 8259")
def json_valid(
    prediction: Any, reference: Any = None, context: Sequence[str] = (), *, fenced: bool = True
) -> float:
    """1 where the answer is one JSON value (no NaN, no key twice). The reference is not read.

    Args:
        prediction: the answer.
        reference: not read.
        context: not read.
        fenced: also accept a value in one code fence, or after `</think>`.

    Example: "[1, 2" → 0; "{}" → 1.
    """
    return float(json_of(prediction, fenced=fenced) is not MISSING)


@functools.lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    jsonschema, referencing = need("jsonschema"), need("referencing", "jsonschema")
    parsed = json.loads(schema)
    try:
        cls = jsonschema.validators.validator_for(parsed, default=jsonschema.Draft202012Validator)
        cls.check_schema(parsed)
    except jsonschema.SchemaError as error:
        raise BadReferenceError(f"the schema is not valid: {error.message[:120]}") from error
    return cls(parsed, registry=referencing.Registry())  # an empty registry: nothing is fetched


@metric(
    "json_schema", family="structured", source="JSON Schema (draft 2020-12 unless the schema names another)"
)
def json_schema(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """1 where the answer is JSON that satisfies the schema given as the reference (an object, or its JSON text).

    Example: schema {"type": "object", "required": ["a"]}; said {"b": 1} → 0.
    """
    schema = parse_json(reference) if isinstance(reference, str) else reference
    if not isinstance(schema, Mapping | bool):
        raise BadReferenceError(f"expected a JSON schema (an object), not {kind_of(reference)}")
    try:
        validator = _validator(json.dumps(schema, sort_keys=True))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, BadReferenceError):
            raise
        raise BadReferenceError("the schema is no JSON") from error
    found = json_of(prediction)
    if found is MISSING:
        return 0.0
    try:
        return float(validator.is_valid(found))
    except RecursionError:
        raise UnscoredError("an answer is nested too deep for its schema") from None
    except need("referencing", "jsonschema").exceptions.Unresolvable as error:
        raise BadReferenceError(f"the schema refers to what it does not hold: {str(error)[:120]}") from error
