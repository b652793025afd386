"""Weighted sum: Σ wᵢΔWᵢ with the weights as given, 1/n by default."""

from __future__ import annotations

from bp_merge.lowrank import LowRank, stack
from bp_merge.method import Context, method


@method(
    reference="arXiv:2203.05482",
    formula="Σ wᵢ·ΔWᵢ, wᵢ = 1/n",
    laws=("identity", "idempotent", "gauge", "symmetric", "linear"),
    default_weight=lambda n: 1 / n,
)
def linear(parts: list[LowRank], weights: list[float], context: Context) -> LowRank:
    """The weighted sum, exact and without cross terms; weights are never normalised.

    Use it to average adapters of one task. Cost: that of the refactor, 4(m+n)R².
    """
    return stack(parts, weights)
