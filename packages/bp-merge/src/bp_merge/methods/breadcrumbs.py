"""Model breadcrumbs: drop both tails of the magnitudes, then sum."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from bp_merge.common import BpError
from bp_merge.kernels import weighted_sum
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.methods.task_arithmetic import factor_of
from bp_merge.spaces import Space, in_space, trim


def without_tails(values: np.ndarray, density: float, gamma: float) -> np.ndarray:
    """Zero the largest fraction gamma and the smallest 1 − density − gamma by absolute value.

    Example:
        (4, 1, 2, 3) at density 0.5, gamma 0.25 → (0, 0, 2, 3).
    """
    kept = trim(values, min(1.0, density + gamma))
    return kept - trim(values, gamma) if round(gamma * values.size) else kept


def check_tails(density: float, gamma: float) -> None:
    """Refuse fractions that make more than the whole.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if density + gamma > 1 + 1e-12:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"density {density} and gamma {gamma} make more than 1",
            f"use --param gamma={max(0.0, 1 - density):.3g}",
        )


@method(
    reference="arXiv:2312.06795",
    formula="λ·Σ wᵢ·(τᵢ without the largest γ and the smallest 1−d−γ); λ as in task arithmetic",
    laws=("gauge", "symmetric"),
)
def breadcrumbs(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.9,
    gamma: Annotated[float, Ge(0), Lt(1)] = 0.01,
    scale: Annotated[float | None, Ge(0)] = None,
    space: Space = "knots",
) -> LowRank:
    """Outliers and crumbs go, the middle stays.

    Use it where a few huge elements spoil a sum. gamma = 0 is magnitude pruning. Cost: twice the sum's and
    N·R·n elements; with `space=dense` N·m·n elements and an SVD of m×n.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where density + gamma exceeds 1.
    """
    check_tails(density, gamma)
    factor = factor_of(scale, context.given, len(parts))
    w = [factor * x for x in weights]
    return in_space(
        parts,
        space,
        lambda taus: weighted_sum([without_tails(t, density, gamma) for t in taus], w),
    )
