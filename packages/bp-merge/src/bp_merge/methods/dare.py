"""DARE: drop elements at random and rescale the rest."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from bp_merge.kernels import drop, elect, key_of, weighted_sum
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.methods.task_arithmetic import factor_of
from bp_merge.spaces import Space, in_space


def dropped(tau: np.ndarray, keep: float | np.ndarray, name: str, key: str, context: Context) -> np.ndarray:
    """Each element kept with the chance `keep` and divided by it: unbiased, variance (1−d)/d·τ²."""
    mask = key_of(context.seed, name, key, context.module)
    return drop(tau.reshape(-1), keep, mask).reshape(tau.shape)


@method(
    reference="arXiv:2311.03099",
    formula="λ·Σ wᵢ·maskᵢ∘τᵢ/d; λ = min(1, 1.2/√n) where neither weights nor scale are given, else 1",
    laws=("gauge", "symmetric"),
)
def dare_linear(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    scale: Annotated[float | None, Ge(0)] = None,
    space: Space = "knots",
) -> LowRank:
    """Random drop, then the weighted sum: task arithmetic on sparse changes.

    Use it to see how much of the changes is needed: its mean over seeds is the sum. The masks depend on the
    seed and the module's name, and follow the adapters in any order. Cost: twice the sum's and N·R·n elements;
    with `space=dense` N·m·n elements and an SVD of m×n.
    """
    factor = factor_of(scale, context.given, len(parts))
    w = [factor * x for x in weights]

    def merged(taus: np.ndarray) -> np.ndarray:
        kept = (dropped(t, density, "dare", k, context) for t, k in zip(taus, context.keys, strict=True))
        return weighted_sum(kept, w)

    return in_space(parts, space, merged)


@method(
    reference="arXiv:2311.03099",
    formula="λ · TIES' election and mean of maskᵢ∘τᵢ/d",
    laws=("gauge", "symmetric"),
)
def dare_ties(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "knots",
) -> LowRank:
    """Random drop, then TIES' sign election. Use it as TIES, where small elements matter too. Cost: twice the sum's
    and N·R·n elements; with `space=dense` N·m·n elements and an SVD of m×n.
    """

    def merged(taus: np.ndarray) -> np.ndarray:
        kept = [dropped(t, density, "dare", k, context) for t, k in zip(taus, context.keys, strict=True)]
        return scale * elect(kept, weights)

    return in_space(parts, space, merged)
