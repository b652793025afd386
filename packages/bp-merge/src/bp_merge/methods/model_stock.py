"""Model stock: the mean, shortened by how much the changes agree."""

from __future__ import annotations

import itertools

import numpy as np

from bp_merge.lowrank import LowRank, cosine, stack
from bp_merge.method import Context, method


@method(
    reference="arXiv:2403.19522",
    formula="t·mean τ, t = N·c/(1+(N−1)·c), c the mean pairwise cosine (≥ 0)",
    laws=("identity", "idempotent", "gauge", "symmetric"),
    default_weight=lambda n: 1 / n,
)
def model_stock(parts: list[LowRank], weights: list[float], context: Context) -> LowRank:
    """For adapters of one task from different seeds: unrelated changes shrink towards the base.

    Use it for runs of one task; unrelated tasks are all but removed. Cost: that of the sum, 4(m+n)R² operations
    for R = Σrᵢ, and N² inner products.
    """
    n = len(parts)
    if n == 1:
        return parts[0] * weights[0]
    c = max(0.0, float(np.mean([cosine(x, y) for x, y in itertools.combinations(parts, 2)])))
    return stack(parts, [w * n * c / (1 + (n - 1) * c) for w in weights])
