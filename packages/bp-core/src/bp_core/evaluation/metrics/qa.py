"""Short answers: exact match and token F1 as SQuAD scores them, containment, and regular expressions.

Where a row has several references, the best one counts. All are in [0, 1] per row; the figure is the mean.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import regex as regexes

from bp_core.evaluation.metrics.base import BadReferenceError, UnscoredError, metric
from bp_core.evaluation.metrics.texts import accepted, normalize, text_of, tokens_of

SQUAD = "Rajpurkar et al., SQuAD, arXiv:1606.05250 (evaluation script)"
REGEX_SECONDS = (
    2.0  # per pattern and row: a pattern that backtracks without end is told instead of waited for
)


@metric("normalized_exact_match", family="qa", source=SQUAD)
def normalized_exact_match(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """1 where the answer equals a reference after SQuAD's normalisation (case, ASCII punctuation, articles, spaces).

    Example: "The Eiffel Tower." against "eiffel tower" → 1; "Eiffel Tower, Paris" → 0.
    """
    said = normalize(text_of(prediction))
    return float(any(said == normalize(r) for r in accepted(reference)))


def f1_of_tokens(said: Sequence[str], wanted: Sequence[str]) -> float:
    """F1 of two bags of tokens; 1 where both are empty, 0 where one is."""
    if not said or not wanted:
        return float(not said and not wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


@metric("token_f1", family="qa", source=SQUAD)
def token_f1(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """F1 of the bags of normalised words of answer and reference: 2·common / (words said + words wanted).

    Limit: words are separated by white space, so Chinese, Japanese and Thai need `chrf` instead.

    Example: "the cat sat" against "a cat sat down": {cat, sat} of 2 and 3 words → 2·2/5 = 0.8.
    """
    said = tokens_of(text_of(prediction))
    return max(f1_of_tokens(said, tokens_of(r)) for r in accepted(reference))


@metric("contains", family="qa", source="presence check, case ignored")
def contains(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    """1 where a reference stands somewhere in the answer, case ignored. Gameable by long answers: look at their length.

    Example: "It is Paris, France." against "paris" → 1. An empty reference is refused, as everything contains it.
    """
    said = text_of(prediction).lower()
    wanted = accepted(reference)
    if not all(wanted):
        raise BadReferenceError("an empty text is contained in everything")
    return float(any(r.lower() in said for r in wanted))


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
    try:
        return regexes.compile(pattern)
    except regexes.error as error:
        raise BadReferenceError(f"{pattern!r} is no regular expression: {error}") from error


@metric("regex", family="qa", source="Python regular expressions, searched anywhere in the answer")
def regex(prediction: Any, reference: Any, context: Sequence[str] = ()) -> float:
    r"""1 where a reference, read as a regular expression, is found in the answer (`search`, case counts).

    A pattern that needs more than 2 s counts as not found, and that is told.

    Example: "In 1889." against "\b\d{4}\b" → 1.
    """
    said = text_of(prediction)
    for pattern in accepted(reference):
        try:
            if _compiled(pattern).search(said, timeout=REGEX_SECONDS):
                return 1.0
        except TimeoutError:
            raise UnscoredError(f"a pattern needed more than {REGEX_SECONDS:g} s") from None
    return 0.0
