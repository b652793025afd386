"""Core space: an elementwise merge of the R×R cores."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.methods.dare import dare_ties
from bp_merge.methods.magmax import magmax
from bp_merge.methods.ties import ties


@method(
    reference="arXiv:2509.17786",
    formula="Mᵢ = U_Bᵀ·τᵢ·V_A; ΔW = λ·U_B·merge(Mᵢ)·V_Aᵀ",
    laws=("gauge", "symmetric"),
)
def core_space(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    combine: Literal["ties", "dare_ties", "magmax"] = "ties",
    density: Annotated[float, Gt(0), Le(1)] = 0.2,
    scale: Annotated[float, Ge(0)] = 1.0,
) -> LowRank:
    """Factors are made canonical first: the plain method depends on how ΔW is factored.

    Use it where R is so large that `ties` in its own space takes too long. Cost: twice the sum's; elements are
    R×R.
    """
    if combine == "magmax":
        return magmax(parts, weights, context, scale=scale, space="core")
    inner = ties if combine == "ties" else dare_ties
    return inner(parts, weights, context, density=density, scale=scale, space="core")
