"""Named entities and other spans: sets of (type, start, end) that must match exactly, and entities of BIO tags.

- Exact means exact: a span that is off by one character is one miss and one hallucination. Both are listed apart.
- Spans of a row are a set: a span said twice counts once. start and end are code points, end is not included.
- An answer is a list of `{"start", "end", "label"}` (or `type` for `label`, or `[start, end, label]`), as JSON text or data;
  an object with the one key `spans` or `entities` is opened. An answer that is none of these has found nothing, and an
  item that is no span is a hallucination.
- A row without spans, of which the answer finds none, is right: precision, recall and F1 are 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import (
    BadReferenceError,
    Case,
    f1_of_counts,
    metric,
    precision_of_counts,
    recall_of_counts,
)
from bp_core.evaluation.metrics.texts import MISSING, json_of, kind_of, text_of

Span = tuple[str, int, int]  # (type, start, end)
SOURCE = "exact span sets, as in CoNLL-2003 (Tjong Kim Sang & De Meulder) on character offsets"
_SHOWN = 20  # misses and hallucinations listed in the details


def _position(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def span_of(item: Any) -> Span | None:
    """One item of a list as a span; None where it is none."""
    if isinstance(item, Mapping):
        label = item.get("label", item.get("type"))
        start, end = _position(item.get("start")), _position(item.get("end"))
    elif isinstance(item, list | tuple) and len(item) == 3:
        if isinstance(item[0], str):  # (type, start, end)
            item = (item[1], item[2], item[0])
        start, end, label = _position(item[0]), _position(item[1]), item[2]
    else:
        return None
    if not isinstance(label, str) or start is None or end is None:
        return None
    return label, start, end


def spans_said(prediction: Any) -> tuple[set[Span], int]:
    """The spans of an answer, and the number of its items that are no span."""
    found = json_of(prediction)
    if isinstance(found, Mapping):
        for key in ("spans", "entities"):
            if isinstance(found.get(key), list | tuple):
                found = found[key]
                break
    if found is MISSING or not isinstance(found, list | tuple):
        return set(), 0
    spans = [span_of(item) for item in found]
    return {s for s in spans if s is not None}, sum(s is None for s in spans)


def spans_wanted(reference: Any) -> set[Span]:
    """The spans of a reference.

    Raises:
        BadReferenceError: it is no list of spans, or one of them is empty or reversed.
    """
    if not isinstance(reference, list | tuple):
        raise BadReferenceError(f"expected a list of spans {{start, end, label}}, not {kind_of(reference)}")
    spans = [span_of(item) for item in reference]
    for span, item in zip(spans, reference, strict=True):
        if span is None:
            raise BadReferenceError(f"{str(item)[:60]} is no span {{start, end, label}}")
        if not 0 <= span[1] < span[2]:
            raise BadReferenceError(f"the span {span[1]} to {span[2]} is empty or reversed")
    return {s for s in spans if s is not None}


def span_sets(cases: Sequence[Case]) -> dict[str, Any]:
    """Misses and hallucinations apart, whole and per type."""
    types: dict[str, Counter[str]] = {}
    lists: dict[str, list[dict[str, Any]]] = {"missed": [], "hallucinated": []}
    counts: Counter[str] = Counter()
    for number, case in enumerate(cases):
        (said, junk), wanted = spans_said(case.prediction), spans_wanted(case.reference)
        counts["malformed"] += junk
        parts = {"right": wanted & said, "missed": wanted - said, "hallucinated": said - wanted}
        for part, spans in parts.items():
            counts[part] += len(spans)
            for label, start, end in sorted(spans):
                types.setdefault(label, Counter())[part] += 1
                if part in lists and len(lists[part]) < _SHOWN:
                    row = case.id or str(number)
                    lists[part].append({"id": row, "label": label, "start": start, "end": end})
    names = ("right", "missed", "hallucinated")
    return {
        **{name: counts[name] for name in (*names, "malformed")},
        "per_type": {label: {n: found[n] for n in names} for label, found in sorted(types.items())},
        "first_missed": lists["missed"],
        "first_hallucinated": lists["hallucinated"],
    }


def _counts(prediction: Any, reference: Any) -> tuple[int, int, int]:
    wanted = spans_wanted(reference)
    said, junk = spans_said(prediction)
    return len(said & wanted), len(said) + junk, len(wanted)


_SHARED: dict[str, Any] = {"family": "spans", "source": SOURCE, "details": span_sets}


@metric("span_f1", reduce=f1_of_counts, **_SHARED)
def span_f1(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int, int]:
    """F1 over all rows of exact spans (type, start, end): 2·right / (said + expected).

    Example: expected PER 0-3 and LOC 9-14; said PER 0-3 and LOC 9-13: one right, one miss, one hallucination →
    2·1/(2+2) = 0.5.
    """
    return _counts(prediction, reference)


@metric("span_precision", reduce=precision_of_counts, **_SHARED)
def span_precision(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int, int]:
    """Share of the said spans that are expected (the rest are hallucinations).

    Example: expected PER 0-3; said PER 0-3 and PER 4-8 → 1/2.
    """
    return _counts(prediction, reference)


@metric("span_recall", reduce=recall_of_counts, **_SHARED)
def span_recall(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int, int]:
    """Share of the expected spans that were said (the rest are misses).

    Example: expected PER 0-3 and LOC 9-14; said PER 0-3 → 1/2.
    """
    return _counts(prediction, reference)


def _tags(value: Any) -> list[str] | None:
    found = value if isinstance(value, list | tuple) else json_of(value)
    if isinstance(found, list | tuple):
        return [t if isinstance(t, str) else "O" for t in found]
    return text_of(value).split() if isinstance(value, str) else None


def entities(tags: Sequence[str]) -> set[Span]:
    """The entities of a BIO (IOB2) sequence, as conlleval reads it: an I- without a B- of its type begins one.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
    [('LOC', 3, 4), ('PER', 0, 2)]
    """
    found: set[Span] = set()
    begun, kind = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        prefix, _, label = tag.partition("-")
        inside = prefix == "I" and bool(kind) and label == kind
        if kind and not inside:
            found.add((kind, begun, i))
            kind = ""
        if prefix in ("B", "I") and label and not inside:
            begun, kind = i, label
    return found


@metric(
    "entity_f1",
    family="spans",
    source="CoNLL-2003 conlleval, as in seqeval (default mode, micro average)",
    reduce=f1_of_counts,
)
def entity_f1(prediction: Any, reference: Any, context: Sequence[str] = ()) -> tuple[int, int, int]:
    """F1 over all rows of the entities of BIO tags: type and both borders must match.

    Reference and answer are lists of tags, or tags with blanks between. A longer answer is cut to the reference's
    length, a shorter one goes on with O.

    Example: expected B-PER I-PER O B-LOC; said B-PER I-PER O O: one of two → 2·1/(1+2) = 0.667.
    """
    wanted = _tags(reference)
    if not wanted:
        raise BadReferenceError(f"expected a list of BIO tags, not {kind_of(reference)}")
    if bad := [t for t in wanted if t != "O" and not (t[:2] in ("B-", "I-") and t[2:])]:
        raise BadReferenceError(f"{bad[0]!r} is no BIO tag (O, B-TYPE, I-TYPE)")
    said = (_tags(prediction) or [])[: len(wanted)]
    right, found = entities(wanted), entities(said)
    return len(right & found), len(found), len(right)
