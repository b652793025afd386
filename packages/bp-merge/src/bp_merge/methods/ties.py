"""TIES: trim, elect a sign, average what agrees."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from bp_merge.kernels import elect
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.spaces import Space, in_space, trim


@method(
    reference="arXiv:2306.01708",
    formula="λ · mean of the trimmed values that agree with the sign of their weighted sum",
    laws=("gauge", "symmetric"),
)
def ties(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.2,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "knots",
) -> LowRank:
    """Weights act before the election; the mean divides by the weights that agree. Trimmed per module.

    Use it where tasks contradict each other. `space=dense` is the paper's, of full rank and slow. Cost: twice
    the sum's and N·R·n elements; with `space=dense` N·m·n elements and an SVD of m×n.
    """
    return in_space(parts, space, lambda taus: scale * elect([trim(t, density) for t in taus], weights))
