"""Model breadcrumbs: drop both tails of the magnitudes, then sum."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.spaces import Space, in_space, trim


def without_tails(values: np.ndarray, density: float, gamma: float) -> np.ndarray:
    """Zero the largest fraction gamma and the smallest 1 − density − gamma by absolute value.

    Example:
        (4, 1, 2, 3) at density 0.5, gamma 0.25 → (0, 0, 2, 3).
    """
    kept = trim(values, min(1.0, density + gamma))
    return kept - trim(values, gamma) if round(gamma * values.size) else kept


@method(
    reference="arXiv:2312.06795",
    formula="λ·Σ wᵢ·(τᵢ without the largest γ and the smallest 1−d−γ)",
    laws=("gauge", "symmetric"),
)
def breadcrumbs(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.9,
    gamma: Annotated[float, Ge(0), Lt(1)] = 0.01,
    scale: Annotated[float, Ge(0)] = 0.3,
    space: Space = "core",
) -> LowRank:
    """Outliers and crumbs go, the middle stays. gamma = 0 is magnitude pruning."""
    return in_space(
        parts,
        space,
        lambda taus: (
            scale
            * np.tensordot(np.asarray(weights), np.stack([without_tails(t, density, gamma) for t in taus]), 1)
        ),
    )
