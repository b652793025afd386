"""Iso-C: the sum with a flat spectrum."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge

from bp_merge.lowrank import LowRank, stack, svd
from bp_merge.method import Context, method


@method(
    reference="arXiv:2502.04959",
    formula="α·σ̄·U·Vᵀ of Σ wᵢτᵢ = U·Σ·Vᵀ, on its numerical rank",
    laws=("gauge", "symmetric"),
)
def iso_c(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    scale: Annotated[float, Ge(0)] = 1.0,
) -> LowRank:
    """All directions equally strong. Kept to the numerical rank: a dense SVD would fill the null space arbitrarily.

    Use it for few tasks that are alike in strength; at eight it is far behind the sum. Cost: that of the sum,
    4(m+n)R² operations for R = Σrᵢ.
    """
    found = svd(stack(parts, weights))
    if not len(found.s):
        return LowRank.zeros(parts[0].shape)
    return LowRank(found.u * (scale * float(np.mean(found.s))), found.vt)
