"""Failure clusters: the rows that missed, grouped by how they missed, with what data would help.

- A row stands in every cluster that fits it (an answer may lack one field and invent another); `count` is in rows.
- Patterns by the shape of the reference: labels → confused pairs; spans → missed, invented, wrong borders, wrong type;
  objects → missing, extra and wrong fields; texts → empty, cut off, not readable, length, other script or language.
- The advice says which rows to add or mend; it is a rule of thumb, and names the rows it comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from bp_core.evaluation.metrics.base import Case, Scores, UnscoredError
from bp_core.evaluation.metrics.classification import OTHER, classes_of, label_of
from bp_core.evaluation.metrics.reasoning import thinking_fault
from bp_core.evaluation.metrics.spans import spans_said, spans_wanted
from bp_core.evaluation.metrics.structured import compare_fields
from bp_core.evaluation.metrics.texts import MISSING, after_thinking, json_of, text_of
from bp_core.rewards.numerals import number_of

_SHOWN = 5
_LONG = 20  # characters from which a language is told

ADVICE = {
    "empty": "the model said nothing: look at these prompts, and at max tokens and stop marks",
    "cut off": "the reasoning was not closed: allow more tokens, or add rows with shorter reasoning",
    "not JSON": "add rows whose answer is JSON and nothing else, without prose or code fences around it",
    "no number": "add rows that end with the number alone",
    "confused": "add rows of both labels that lie close to each other, and check these labels for mistakes",
    "no label": "add rows whose answer is the label alone; name the labels in the prompt",
    "missed": "add rows with spans of this type, in the contexts shown",
    "invented": "add rows without such spans, so that nothing is a right answer too",
    "borders": "check that spans of this type are cut alike in all rows (titles, punctuation, white space)",
    "type": "add rows in which both types stand, and check these spans for mistakes",
    "missing field": "add rows in which this field is present, and say in the prompt that it is required",
    "extra field": "add rows that show the whole object, without this field",
    "wrong field": "add rows with other values of this field; check its format (dates, units, case)",
    "too long": "the right answer stands in a longer one: add rows whose answer is as short as the reference",
    "too short": "add rows with answers as long as the references",
    "other script": "add rows in the language of the reference, and say in the prompt which one to answer in",
    "other language": "add rows in the language of the reference, and say in the prompt which one to answer in",
    "wrong": "read these rows: no pattern fits them",
}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Rows that missed in the same way.

    Args:
        kind: key of the advice (`confused`, `missing field`, …).
        pattern: the kind with its particulars (`confused: cat → dog`).
        count: rows.
        share: of the missed rows.
        ids: of the first rows.
        examples: what was expected and said in them, shortened.
        advice: what data to add or mend.
    """

    kind: str
    pattern: str
    count: int
    share: float
    ids: tuple[str, ...]
    examples: tuple[Mapping[str, str], ...]
    advice: str


def clusters(cases: Sequence[Case], scores: Scores, *, best: float = 1.0, most: int = 20) -> list[Cluster]:
    """Group the rows whose value is worse than `best`, the largest group first.

    Args:
        cases: that were scored, in the order of `scores`.
        scores: of the metric that tells hit from miss.
        best: value of a row that missed nothing (100 for BLEU and chrF, 0 where lower is better).
        most: clusters to return.

    Raises:
        ValueError: there are not as many cases as scores.
    """
    if len(cases) != len(scores.ids):
        raise ValueError(f"{len(cases)} cases and {len(scores.ids)} scores")
    short = scores.values < best - 1e-9 if scores.better == "higher" else scores.values > best + 1e-9
    lookup = _lookup(cases) if scores.metric in _BY_LABEL else None
    if lookup is not None:
        short = [lookup(text_of(c.prediction)) != lookup(label_of(c.reference)) for c in cases]
    missed = [(id_, case) for id_, case, is_short in zip(scores.ids, cases, short, strict=True) if is_short]
    groups: dict[tuple[str, str], list[tuple[str, Case]]] = {}
    for id_, case in missed:
        found = dict.fromkeys(_patterns(case, scores.metric, lookup)) or {("wrong", ""): None}
        for pattern in found:
            groups.setdefault(pattern, []).append((id_, case))
    out = [
        Cluster(
            kind=kind,
            pattern=f"{kind}: {what}" if what else kind,
            count=len(rows),
            share=len(rows) / len(missed),
            ids=tuple(id_ for id_, _ in rows[:_SHOWN]),
            examples=tuple(
                {"expected": text_of(c.reference)[:120], "said": text_of(c.prediction)[:120]}
                for _, c in rows[:_SHOWN]
            ),
            advice=ADVICE[kind],
        )
        for (kind, what), rows in groups.items()
    ]
    return sorted(out, key=lambda c: (-c.count, c.pattern))[:most]


_BY_LABEL = {"accuracy", "macro_f1", "micro_f1"}
_BY_SPAN = {"span_f1", "span_precision", "span_recall"}
_BY_FIELD = {"field_accuracy", "object_match", "missing_fields", "extra_fields"}


Lookup = Callable[[str], str]  # what was said or expected → a label of the references, or `(other)`


def _lookup(cases: Sequence[Case]) -> Lookup:
    labels, key = classes_of(cases)
    named = {key(label): label for label in labels}
    return lambda text: named.get(key(text), OTHER)


def _patterns(case: Case, metric: str, lookup: Lookup | None) -> Iterator[tuple[str, str]]:
    said = text_of(case.prediction)
    if not said.strip():
        yield "empty", ""
    elif thinking_fault(said) == "unclosed":
        yield "cut off", ""
    elif lookup is not None:
        wanted, got = lookup(label_of(case.reference)), lookup(said)
        yield ("no label", wanted) if got == OTHER else ("confused", f"{wanted} → {got}")
    elif metric in _BY_SPAN:
        yield from _spans(case)
    elif metric in _BY_FIELD:
        yield from _fields(case)
    elif metric in ("json_valid", "json_schema"):
        if json_of(case.prediction) is MISSING:
            yield "not JSON", ""
    elif metric == "math_equal":
        if number_of(said) is None:
            yield "no number", ""
    else:
        yield from _texts(case, said)


def _spans(case: Case) -> Iterator[tuple[str, str]]:
    if json_of(case.prediction) is MISSING:
        yield "not JSON", ""
        return
    wanted, (said, _) = spans_wanted(case.reference), spans_said(case.prediction)
    lost, made = sorted(wanted - said), sorted(said - wanted)
    for span in lost:
        moved = next((s for s in made if s[0] == span[0] and s[1] < span[2] and span[1] < s[2]), None)
        renamed = next((s for s in made if s[1:] == span[1:]), None)
        if moved is not None:
            yield "borders", span[0]
            made.remove(moved)
        elif renamed is not None:
            yield "type", f"{span[0]} → {renamed[0]}"
            made.remove(renamed)
        else:
            yield "missed", span[0]
    for span in made:
        yield "invented", span[0]


def _fields(case: Case) -> Iterator[tuple[str, str]]:
    try:
        found = compare_fields(case.prediction, case.reference)
    except UnscoredError:
        return
    if found["unreadable"]:
        yield "not JSON", ""
        return
    for part in ("missing", "extra", "wrong"):
        for name in found[part]:
            yield f"{part} field", name


def _texts(case: Case, said: str) -> Iterator[tuple[str, str]]:
    reference = case.reference
    wanted = text_of(reference[0] if isinstance(reference, list | tuple) and reference else reference)
    if isinstance(reference, Mapping) and json_of(case.prediction) is MISSING:
        yield "not JSON", ""
        return
    from bp_data.language import language, script

    answer = after_thinking(said)
    scripts = script(wanted), script(answer)
    tongues = ("", "")
    if min(len(wanted), len(answer)) >= _LONG:
        tongues = language(wanted), language(answer)
    if scripts[0] != scripts[1] and all(any(c.isalpha() for c in text) for text in (wanted, answer)):
        yield "other script", f"{scripts[0]} → {scripts[1]}"
    elif tongues[0] != tongues[1] and "und" not in tongues:
        yield "other language", f"{tongues[0]} → {tongues[1]}"
    if wanted.strip() and wanted.strip().lower() in answer.lower():
        yield "too long", ""
    elif len(answer) * 3 < len(wanted):
        yield "too short", ""
