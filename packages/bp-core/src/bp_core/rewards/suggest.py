"""Which rewards fit a dataset, read off its rows: shares of references that are numbers, letters, JSON, code, tests.

- A proposal is a start with its reason and the share of rows that it rests on; nothing is chosen in silence.
- The best is the one that is most exact about what the rows expect: tests before calls before JSON before numbers
  before letters before labels before texts.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from bp_core.rewards.catalogue.choices import chosen
from bp_core.rewards.catalogue.code import parses, program
from bp_core.rewards.json_text import MISSING
from bp_core.rewards.presets import PRESETS
from bp_core.rewards.sample import Sample
from bp_core.rewards.schema import json_of
from bp_core.rewards.text import marked_answer, number_of, plain_text, words

ENOUGH = 0.8  # share of rows that must look alike
_SUMMARY = ("summar", "tl;dr", "in short", "condense", "zusammenfass", "résum")


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A set that fits.

    Attributes:
        name: a preset's, or of the set made for the data.
        reason: why, with figures.
        table: the set, as `compose.load_set` takes it.
        share: of the rows that it rests on.
        notes: what to know before using it.
    """

    name: str
    reason: str
    table: dict[str, Any]
    share: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


def suggest(rows: Sequence[Sample]) -> list[Proposal]:
    """Proposals for the rows, the best first; at least one.

    Args:
        rows: of `bp_core.rewards.rows.references`.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there is no row to look at")
    n = len(rows)
    found: list[Proposal] = []

    def share(test: Any) -> float:
        return sum(bool(test(r)) for r in rows) / n

    def preset(name: str, reason: str, at: float, *notes: str) -> None:
        found.append(Proposal(name, reason, PRESETS[name].table(), at, notes))

    def made(
        name: str, reason: str, at: float, parts: list[dict[str, Any]], prompt: str = "", *notes: str
    ) -> None:
        table: dict[str, Any] = {"prompt": prompt} if prompt else {}
        found.append(Proposal(name, reason, {**table, "reward": parts}, at, notes))

    tested = share(lambda r: any(r.row.get(k) for k in ("tests", "test_list", "test")))
    if tested >= ENOUGH:
        preset(
            "algorithm-implementation",
            f"{tested:.0%} of the rows bring tests",
            tested,
            "runs code of the model: give --run-code",
        )
    expected = [r for r in rows if r.reference is not None and r.reference != ""]
    with_reference = len(expected) / n
    if not tested >= ENOUGH:
        found += _by_reference(rows, expected, n)
    code = share(lambda r: "```" in plain_text(r.reference) and parses(program(plain_text(r.reference))))
    if code >= ENOUGH and tested < ENOUGH:
        preset(
            "code-generation",
            f"{code:.0%} of the answers are code in a block that parses",
            code,
            "nothing is run",
        )
    if tested >= ENOUGH:
        made(
            "parses-only",
            "the same rows without running anything",
            tested,
            [{"use": "code_parses"}],
            "python-block",
        )
    if not found and with_reference >= ENOUGH:
        length = sorted(len(words(plain_text(r.reference))) for r in expected)[len(expected) // 2]
        if length <= 30:
            preset(
                "question-answering",
                f"the expected answers are short texts (median {length} words)",
                with_reference,
            )
        else:
            made(
                "open-answers",
                f"the expected answers are long texts (median {length} words): shared words tell little about their quality",
                with_reference,
                [{"use": "token_f1", "parameters": {"answer_in": "whole"}},
                 {"use": "length_in_range", "weight": 0.25, "parameters": {"least": max(1, length // 3), "most": 2 * length}},
                 {"use": "repetition_penalty", "weight": 0.5}],
                "",
                "a judge sees more: backprop reward show judge",
            )  # fmt: skip
    if not found:
        preset("creative-writing", f"only {with_reference:.0%} of the rows have an expected answer", 1 - with_reference,
               "form alone is looked at; a judge sees more: backprop reward show judge")  # fmt: skip
    return found


def _by_reference(rows: Sequence[Sample], expected: Sequence[Sample], n: int) -> list[Proposal]:
    found: list[Proposal] = []

    def share(test: Any) -> float:
        return sum(bool(test(r.reference)) for r in expected) / n

    def add(name: str, reason: str, at: float, table: dict[str, Any], *notes: str) -> None:
        found.append(Proposal(name, reason, table, at, notes))

    calls = share(_is_call)
    if calls >= ENOUGH:
        add(
            "tool-calls",
            f"{calls:.0%} of the rows expect a tool call",
            calls,
            {"reward": [{"use": "tool_call"}]},
        )
        return found
    objects = share(_is_object)
    if objects >= ENOUGH:
        parts = [{"use": "json_fields", "weight": 2.0}, {"use": "json_valid", "weight": 0.5}]
        if all(r.row.get("schema") for r in rows):
            parts.append({"use": "json_schema", "weight": 0.5})
        add(
            "json",
            f"{objects:.0%} of the expected answers are JSON objects",
            objects,
            {"prompt": "json-only", "reward": parts},
        )
        return found
    numeric = share(_is_number)
    if numeric >= ENOUGH:
        add(
            "math-science",
            f"{numeric:.0%} of the expected answers are, or end with, a number",
            numeric,
            PRESETS["math-science"].table(),
        )
        return found
    texts = collections.Counter(plain_text(r.reference).strip() for r in expected)
    letters = share(lambda r: len(plain_text(r).strip(" ().:")) == 1 and chosen(plain_text(r), "ABCDEFGH"))
    if letters >= ENOUGH:
        last = max(c for t in texts for c in [chosen(t, "ABCDEFGH") or "D"])
        options = "ABCDEFGH"[: max(4, "ABCDEFGH".index(last) + 1)]
        add("multiple-choice", f"{letters:.0%} of the expected answers are a letter", letters,
            {"reward": [{"use": "multiple_choice", "parameters": {"options": options}}]})  # fmt: skip
    elif len(expected) >= 20 and len(texts) <= max(2, len(expected) // 10) and max(map(len, texts)) <= 60:
        common = texts.most_common(1)[0]
        add("labels", f"{len(texts)} different expected answers in {len(expected)} rows", len(expected) / n,
            {"reward": [{"use": "normalized_match"}]},
            f"{common[0]!r} alone would be right in {common[1] / len(expected):.0%}")  # fmt: skip
    marked = share(lambda r: marked_answer(plain_text(r)) is not None)
    if marked >= ENOUGH and not found:
        add(
            "reasoning",
            f"{marked:.0%} of the expected answers mark a final answer",
            marked,
            PRESETS["reasoning"].table(),
        )
    asked = sum(any(w in (r.prompt or "").casefold()[:2000] for w in _SUMMARY) for r in expected) / n
    if asked >= ENOUGH and not found:
        add(
            "concise-summarization",
            f"{asked:.0%} of the prompts ask for a summary",
            asked,
            PRESETS["concise-summarization"].table(),
        )
    return found


def _is_number(reference: Any) -> bool:
    text = plain_text(reference).strip()
    if number_of(reference) is None:
        return False
    part = marked_answer(text)
    return len(words(text if part is None else part)) <= 4 and isinstance(reference, str | int | float)


def _is_object(reference: Any) -> bool:
    value = json_of(reference) if isinstance(reference, str) else reference
    return value is not MISSING and isinstance(value, dict) and bool(value)


def _is_call(reference: Any) -> bool:
    value = json_of(reference) if isinstance(reference, str) else reference
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(
        isinstance(i, dict)
        and isinstance(f := i.get("function", i), dict)
        and "name" in f
        and "arguments" in f
        for i in items
    )
