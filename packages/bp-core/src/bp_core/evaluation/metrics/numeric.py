"""Answers to sums, compared by value; how a number is read out of an answer stands in `bp_core.rewards.numerals`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError, metric
from bp_core.evaluation.metrics.texts import accepted, text_of
from bp_core.rewards.numerals import same_answer


@metric(
    "math_equal",
    family="math",
    source="final-answer match as for GSM8K (arXiv:2110.14168) and MATH (arXiv:2103.03874)",
)
def math_equal(
    prediction: Any, reference: Any, context: Sequence[str] = (), *, tolerance: float = 1e-6
) -> float:
    r"""1 where the answer's final number equals a reference's: |a − b| ≤ tolerance · max(1, |b|).

    Args:
        prediction: the answer, with or without its reasoning.
        reference: the number, or a solution that ends with it.
        context: not read.
        tolerance: relative, and absolute below 1.

    Example: "… so she has \boxed{1{,}200} dollars" against "#### 1200" → 1; "0.3333" against "1/3" → 0, with
    tolerance 0.001 → 1.
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be in [0, 1), not {tolerance}")
    wanted = accepted(reference)
    if not all(r.strip() for r in wanted):
        raise BadReferenceError("expected a number or a solution, not an empty text")
    return float(any(same_answer(text_of(prediction), r, tolerance) for r in wanted))
