"""A reward for a number: right within a tolerance, with partial credit where it is asked for."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import marked_answer, number_of


@reward(
    cases=(
        Case("<SOLUTION>72</SOLUTION>", 1.0, "48+24 = 72\n#### 72"),
        Case("48 + 24 = 72", 1.0, "72", why="without a mark the last number counts"),
        Case("#### 1,234.50 dollars", 1.0, 1234.5),
        Case("\\boxed{\\frac{3}{4}}", 1.0, "0.75"),
        Case("3/4", 1.0, 0.75),
        Case("#### 71", 0.0, "72"),
        Case("#### 71", 0.5, "72", parameters={"near": 0.1, "near_credit": 0.5}, why="within a tenth"),
        Case("#### 72.5", 1.0, "72", parameters={"absolute": 0.5}),
        Case("−5", 1.0, "-5", why="the sign may be a minus of typography"),
        Case("50%", 1.0, "0.5", why="a percentage is the figure and the share"),
        Case("<think>5 or 6?</think> 6", 1.0, "6"),
        Case("72", 0.0, "72", parameters={"marked": True}, why="no mark"),
        Case("no number", 0.0, "72"),
        Case("", 0.0, "72"),
        Case("1e999", 0.0, "72"),
    )
)
def numeric_match(
    completion: str,
    *,
    reference: Any,
    absolute: Annotated[float, Ge(0)] = 0.0,
    relative: Annotated[float, Ge(0)] = 1e-6,
    near: Annotated[float, Ge(0)] = 0.0,
    near_credit: Annotated[float, Gt(0), Le(1)] = 0.5,
    marked: bool = False,
) -> float:
    """1 where the final number is the reference's within a tolerance, else 0, or `near_credit` where it is near.

    |x − r| ≤ max(absolute, relative·|r|), in exact fractions. The number is the last one of the marked answer, else of
    the whole text, read as the metric `math_equal` reads it (50% is 50 and 0.5); `marked` asks for a mark. `near` is the relative distance that earns `near_credit`. A reference
    without a number gives 0.
    """
    if marked and marked_answer(completion) is None:
        return 0.0
    found, wanted = number_of(completion), number_of(reference)
    if found is None or wanted is None:
        return 0.0
    (x, percent), (r, also) = found, wanted
    pairs = [(x, r)]
    if percent != also:  # 50% is 50, and 0.5
        pairs.append((x / 100, r) if percent else (x, r / 100))
    if any(abs(a - b) <= max(Fraction(absolute), Fraction(relative) * abs(b)) for a, b in pairs):
        return 1.0
    return near_credit if any(abs(a - b) <= Fraction(near) * abs(b) for a, b in pairs) else 0.0
