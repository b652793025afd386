"""Labelled text: classification, named entities (BIO tags or spans), structured key–values.

- All three are trainable as they are: the user turn is the text (after an instruction where the row has one), the
  assistant's turn is the label, or the entities or keys as JSON; `reference` keeps the exact truth for scoring.
- Span offsets count code points of the text. BIO tokens are joined by single spaces, and the offsets follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.formats.base import (
    NO,
    Fields,
    Format,
    Score,
    finish,
    from_json,
    kind_of,
    optional_text,
    text_field,
    to_json,
    without_nulls,
)
from bp_data.formats.sides import dress

TEXTS = ("text", "sentence", "document", "content", "review", "tweet")
LABELS = ("label", "category", "class", "intent", "sentiment")
TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "bio_tags")
SPANS = ("spans", "entities")
ASKS = (*TEXTS, "input", "prompt", "instruction")
OBJECTS = ("output", "json", "fields", "target", "extracted", "completion")


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


_SIDES = frozenset({"system", "context", "reasoning", "history", "weight"})


def _turns(fields: Fields, text: str, answer: str) -> tuple[Turn, ...]:
    instruction = optional_text(fields, "instruction")
    fields.pop("instruction", None)
    asked = Turn("user", f"{instruction}\n{text}" if instruction else text)
    return dress(fields, (asked, Turn("assistant", answer)), _SIDES)[0]


# ------------------------------------------------------------------------------------- classification


def _score_classification(row: Mapping[str, Any]) -> Score:
    text, label = _first(row, TEXTS), _first(row, LABELS)
    if text is None or label is None or "completion" in row or not isinstance(row[text], str):
        return NO
    if isinstance(row[label], str | int):
        return (0.95 if (text, label) == ("text", "label") else 0.85), f"has {text} and {label}"
    return 0.8, f"has {text} and {label}, which is {kind_of(row[label])}"


def _classification(fields: Fields) -> Example:
    key, name = _first(fields, TEXTS) or "text", _first(fields, LABELS) or "label"
    text = text_field(fields, key)
    del fields[key]
    if "text_pair" in fields:
        text = f"{text}\n{text_field(fields, 'text_pair')}"
        del fields["text_pair"]
    value = fields.pop(name, None)
    if value is None or value == -1 or value == "":
        raise RowError("unlabelled", name, f"{name} must be a text or a number from 0 up")
    if not isinstance(value, str | int):
        raise RowError(
            "mistyped_field", name, f"{name} must be a text or a whole number, not {kind_of(value)}"
        )
    label = str(value).strip() if not isinstance(value, bool) else str(value).lower()
    return finish(fields, "chat", _turns(fields, text, label), reference=label, task="classification")


# ---------------------------------------------------------------------------------------------- entities


def _score_ner(row: Mapping[str, Any]) -> Score:
    tokens, tags = _first(row, TOKENS), _first(row, TAGS)
    if tokens and tags and isinstance(row[tokens], list):
        return 1.0, f"has {tokens} with {tags}"
    spans = _first(row, SPANS)
    if "text" in row and spans and isinstance(row[spans], list):
        return 1.0, f"has text with {spans}"
    return NO


def spans_of_tags(tokens: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """BIO tags as spans over the tokens joined by spaces; an I- without its B- opens a span.

    Example:
        >>> spans_of_tags(["Ada", "lives", "in", "New", "York"], ["B-PER", "O", "O", "B-LOC", "I-LOC"])
        [{'start': 0, 'end': 3, 'label': 'PER'}, {'start': 13, 'end': 21, 'label': 'LOC'}]
    """
    spans: list[dict[str, Any]] = []
    at, open_label = 0, ""
    for token, tag in zip(tokens, tags, strict=True):
        prefix, _, label = tag.partition("-")
        if tag in ("O", "", "0"):
            open_label = ""
        elif prefix in ("I", "E", "L", "M") and label == open_label:
            spans[-1]["end"] = at + len(token)
        else:
            open_label = label or tag
            spans.append({"start": at, "end": at + len(token), "label": open_label})
        at += len(token) + 1
    return spans


def _ner(fields: Fields) -> Example:
    tokens_key, tags_key = _first(fields, TOKENS), _first(fields, TAGS)
    if tokens_key and tags_key:
        tokens, tags = (
            from_json(fields.pop(tokens_key), tokens_key),
            from_json(fields.pop(tags_key), tags_key),
        )
        if not isinstance(tokens, list) or not isinstance(tags, list):
            raise RowError("mistyped_field", tags_key, f"{tokens_key} and {tags_key} must be lists")
        if len(tokens) != len(tags):
            raise RowError(
                "length_mismatch", tags_key, f"{len(tokens)} {tokens_key} but {len(tags)} {tags_key}"
            )
        if not tokens or not all(isinstance(token, str) for token in tokens):
            raise RowError(
                "mistyped_field" if tokens else "empty_field", tokens_key, f"{tokens_key} must hold texts"
            )
        if -1 in tags:
            raise RowError("unlabelled", tags_key, "a tag is -1")
        text, spans = " ".join(tokens), spans_of_tags(tokens, [str(tag) for tag in tags])
        if fields.get("text") == text or fields.get("sentence") == text:
            fields.pop("text" if fields.get("text") == text else "sentence")
    else:
        key = _first(fields, SPANS) or "spans"
        text, spans = text_field(fields, "text"), []
        del fields["text"]
        given = from_json(fields.pop(key, None), key)
        if not isinstance(given, list):
            raise RowError(
                "missing_field" if given is None else "mistyped_field",
                key,
                f"{key} must be a list of {{start, end, label}}",
            )
        for index, given_span in enumerate(given):
            where = f"{key}[{index}]"
            span: Any = given_span
            if isinstance(span, list) and len(span) == 3:
                span = dict(zip(("start", "end", "label"), span, strict=True))
            if not isinstance(span, Mapping):
                raise RowError("bad_span", where, "a span is {start, end, label}")
            left = dict(span)
            start, end = left.pop("start", None), left.pop("end", None)
            label = left.pop(next((k for k in ("label", "type", "entity") if k in left), "label"), None)
            if (
                type(start) is not int
                or type(end) is not int
                or not 0 <= start < end <= len(text)
                or not label
            ):
                hint = f"0 ≤ start < end ≤ {len(text)} code points and a label are needed"
                raise RowError("bad_span", where, hint)
            spans.append({"start": start, "end": end, "label": str(label)})
            if left.get("text") == text[start:end]:
                del left["text"]
            fields.rest(left, f"{key}[]")
    answer = to_json([{**span, "text": text[span["start"] : span["end"]]} for span in spans])
    return finish(fields, "chat", _turns(fields, text, answer), text=text, reference=spans, task="ner")


# -------------------------------------------------------------------------------------------- key–values


def _score_structured(row: Mapping[str, Any]) -> Score:
    key = next((name for name in OBJECTS if isinstance(row.get(name), Mapping)), None)
    text = _first(row, ASKS)
    if key is None or text is None or "chosen" in row:
        return NO
    return 0.9, f"has {text} and the object {key}"


def _structured(fields: Fields) -> Example:
    key = next((name for name in OBJECTS if isinstance(fields.get(name), Mapping)), None)
    key = key or _first(fields, OBJECTS) or "output"
    name = _first(fields, ASKS) or "input"
    text = text_field(fields, name)
    del fields[name]
    given = fields.pop(key, None)
    value = from_json(given, key)
    if not isinstance(value, Mapping):
        raise RowError(
            "missing_field" if value is None else "mistyped_field", key, f"{key} must be an object"
        )
    if value is given:  # no JSON string, which keeps its nulls
        value = without_nulls(value, fields, key)
    if not value:
        raise RowError("empty_target", key, f"{key} must hold at least one key")
    turns = _turns(fields, text, to_json(value))
    return finish(fields, "chat", turns, reference=dict(value), task="structured")


CLASSIFICATION = Format(
    "classification", ("labels",), "text, label, text_pair?", {"text": "Great film.", "label": "positive"},
    _score_classification, _classification,
)  # fmt: skip
NER = Format(
    "ner", ("bio", "spans"), "tokens + ner_tags, or text + spans: [{start, end, label}]",
    {"text": "Ada lives in Paris.", "spans": [{"start": 0, "end": 3, "label": "PER"}]}, _score_ner, _ner,
)  # fmt: skip
STRUCTURED = Format(
    "structured", ("extraction", "json"), "input, output: {key: value}",
    {"input": "Ada, 36", "output": {"name": "Ada", "age": 36}}, _score_structured, _structured,
)  # fmt: skip
