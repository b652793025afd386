"""KnOTS: TIES in the coordinates of a joint SVD."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le

from bp_merge.kernels import elect
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.spaces import in_space, trim


@method(
    reference="arXiv:2410.19735",
    formula="[τ₁…τ_N] = U·S[V₁ᵀ…V_Nᵀ]; ΔW = λ·U·TIES(SVᵢᵀ)",
    laws=("gauge", "symmetric"),
)
def knots(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.2,
    scale: Annotated[float, Ge(0)] = 1.0,
) -> LowRank:
    """TIES on SVᵢᵀ, computed from the factors. Use it for adapters that were trained apart. Cost: that of `ties`,
    whose default it is.
    """
    return in_space(parts, "knots", lambda taus: scale * elect([trim(t, density) for t in taus], weights))
