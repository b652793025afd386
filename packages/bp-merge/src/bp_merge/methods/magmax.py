"""MagMax: of each element the value of largest magnitude."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge

from bp_merge.lowrank import LowRank
from bp_merge.method import Context, method
from bp_merge.spaces import Space, in_space


@method(
    reference="arXiv:2407.06322",
    formula="λ·(wᵢτᵢ of largest magnitude), element by element",
    laws=("identity", "idempotent", "gauge", "symmetric"),
)
def magmax(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    scale: Annotated[float, Ge(0)] = 1.0,
    space: Space = "knots",
) -> LowRank:
    """Among equal magnitudes the positive value wins, so that order does not matter. The paper's λ is 0.5.

    Use it where tasks move different elements. Cost: twice the sum's and N·R·n elements; with `space=dense`
    N·m·n elements and an SVD of m×n.
    """

    def merged(taus: np.ndarray) -> np.ndarray:
        weighted = taus * np.asarray(weights).reshape(-1, 1, 1)
        high, low = weighted.max(0), weighted.min(0)
        return scale * np.where(high >= -low, high, low)

    return in_space(parts, space, merged)
