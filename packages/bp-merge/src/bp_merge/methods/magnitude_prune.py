"""Magnitude pruning: keep the largest elements, then sum."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le

from bp_merge.kernels import weighted_sum
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.spaces import Space, in_space, trim


@method(
    reference="arXiv:2306.01708 (its first step)",
    formula="Σ wᵢ·trim(τᵢ, d), wᵢ = 1/n",
    laws=("gauge", "symmetric"),
    default_weight=lambda n: 1 / n,
)
def magnitude_prune(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    space: Space = "knots",
) -> LowRank:
    """Trimmed changes, summed without an election.

    Use it to see what TIES' election adds. Cost: twice the sum's and N·R·n elements; with `space=dense` N·m·n
    elements and an SVD of m×n.
    """
    return in_space(
        parts,
        space,
        lambda taus: weighted_sum([trim(t, density) for t in taus], weights),
    )
