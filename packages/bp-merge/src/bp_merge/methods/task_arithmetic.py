"""Task arithmetic: λ·Σ wᵢΔWᵢ; the default method."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Ge

from bp_merge.lowrank import LowRank, stack
from bp_merge.method import Context, method


def sum_scale(n: int) -> float:
    """min(1, 1.2/√n): the best common factor of a sum of n independent tasks in our measurements.

    Example:
        1 → 1, 4 → 0.6.
    """
    return min(1.0, 1.2 / math.sqrt(n))


def factor_of(scale: float | None, given: bool, n: int) -> float:
    """λ of a sum: `scale` where it is given, else 1 with the caller's own weights, else `sum_scale`."""
    return scale if scale is not None else 1.0 if given else sum_scale(n)


@method(
    reference="arXiv:2212.04089",
    formula="λ·Σ wᵢ·ΔWᵢ; λ = min(1, 1.2/√n) where neither weights nor scale are given, else 1",
    laws=("identity", "gauge", "symmetric", "linear"),
)
def task_arithmetic(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    scale: Annotated[float | None, Ge(0)] = None,
) -> LowRank:
    """The scaled sum. A negative weight takes a task away.

    Use it to combine different tasks. Cost: that of the refactor, 4(m+n)R².
    """
    factor = factor_of(scale, context.given, len(parts))
    return stack(parts, [w * factor for w in weights])
