"""DARE: drop elements at random and rescale the rest."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from bp_merge.lowrank import LowRank
from bp_merge.masks import keep
from bp_merge.method import Context, method
from bp_merge.spaces import Space, elect, in_space


def dropped(taus: np.ndarray, density: float, name: str, context: Context) -> np.ndarray:
    """Each element kept with the chance `density` and divided by it: unbiased, variance (1−d)/d·τ²."""
    if density >= 1:
        return taus
    return np.stack(
        [
            np.where(keep(t.shape, 1 - density, context.seed, name, key, context.module), t, 0.0) / density
            for t, key in zip(taus, context.keys, strict=True)
        ]
    )


@method(
    reference="arXiv:2311.03099",
    formula="λ·Σ wᵢ·maskᵢ∘τᵢ/d, wᵢ = 1/n",
    laws=("gauge", "symmetric"),
    default_weight=lambda n: 1 / n,
)
def dare_linear(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "core",
) -> LowRank:
    """Random drop, then the weighted sum. The masks depend on the seed, the adapter's content and the module's name."""
    return in_space(
        parts,
        space,
        lambda t: scale * np.tensordot(np.asarray(weights), dropped(t, density, "dare", context), 1),
    )


@method(
    reference="arXiv:2311.03099",
    formula="TIES' election and mean of maskᵢ∘τᵢ/d",
    laws=("gauge", "symmetric"),
)
def dare_ties(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "core",
) -> LowRank:
    """Random drop, then TIES' sign election."""
    return in_space(parts, space, lambda t: scale * elect(dropped(t, density, "dare", context), weights))
