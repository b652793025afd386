"""DELLA: drop small elements more often than large ones, then elect."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from bp_merge.common import BpError
from bp_merge.kernels import della_keep, elect
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.methods.dare import dropped
from bp_merge.spaces import Space, in_space


def check_chances(density: float, epsilon: float) -> None:
    """Refuse chances outside (0, 1].

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    if not 0 < density - epsilon / 2 <= density + epsilon / 2 <= 1:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"density ± epsilon/2 must lie within (0, 1]: {density} ± {epsilon / 2}",
            "use --param epsilon=0.1",
        )


@method(
    reference="arXiv:2406.11617",
    formula="λ · TIES' election and mean of maskᵢ∘τᵢ/pᵢ, pᵢ = d − ε/2 … d + ε/2 over the ranks of |τᵢ| in its row",
    laws=("gauge", "symmetric"),
)
def della(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Le(1)] = 0.5,
    epsilon: Annotated[float, Ge(0), Le(1)] = 0.2,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "knots",
) -> LowRank:
    """Magnitude-aware DARE with TIES' election; `epsilon` is the whole width of the chances to keep.

    Use it as `dare_ties`, where large elements should rather stay. Cost: twice the sum's and N·R·n elements;
    with `space=dense` N·m·n elements and an SVD of m×n.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where density ± epsilon/2 leaves (0, 1].
    """
    check_chances(density, epsilon)

    def merged(taus: np.ndarray) -> np.ndarray:
        kept = [
            dropped(t, della_keep(t, density, epsilon).reshape(-1), "della", k, context)
            for t, k in zip(taus, context.keys, strict=True)
        ]
        return scale * elect(kept, weights)

    return in_space(parts, space, merged)
