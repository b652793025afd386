"""The best approximation of the weighted sum at the rank of the inputs."""

from __future__ import annotations

from bp_merge.lowrank import LowRank, compress, stack
from bp_merge.method import Context, method


@method(
    reference="Eckart and Young 1936, doi:10.1007/BF02288367",
    formula="best rank-r approximation of Σ wᵢ·ΔWᵢ, r the largest rank of the inputs unless given; wᵢ = 1/n",
    laws=("identity", "idempotent", "gauge", "symmetric"),
    default_weight=lambda n: 1 / n,
)
def svd(parts: list[LowRank], weights: list[float], context: Context) -> tuple[LowRank, float]:
    """The sum, cut to one adapter's rank: small and lossy; the discarded energy is reported.

    Use it where the result must be no larger than an input. Cost: that of the sum, 4(m+n)R² operations for R =
    Σrᵢ.
    """
    rank = context.rank or max(p.rank for p in parts)
    return compress(stack(parts, weights), rank)
