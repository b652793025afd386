"""DELLA: drop small elements more often than large ones, then elect."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from bp_merge.common import BpError
from bp_merge.lowrank import LowRank
from bp_merge.masks import keep
from bp_merge.method import Context, method
from bp_merge.spaces import Space, elect, in_space


def drop_chances(values: np.ndarray, density: float, width: float) -> np.ndarray:
    """Chance to drop each element of (p, q): linear in its rank within the row, smallest element first.

    Example:
        row (3, 1, 2), density 0.5, width 0.2 → (0.4, 0.6, 0.5).
    """
    q = values.shape[-1]
    order = np.argsort(np.argsort(np.abs(values), axis=-1, kind="stable"), axis=-1, kind="stable")
    share = order / (q - 1) if q > 1 else np.full(values.shape, 0.5)
    return 1 - density + width * (0.5 - share)


@method(
    reference="arXiv:2406.11617",
    formula="drop with pᵢ linear over the row's ranks, ÷(1−pᵢ), TIES' election, λ",
    laws=("gauge", "symmetric"),
)
def della(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    density: Annotated[float, Gt(0), Lt(1)] = 0.5,
    epsilon: Annotated[float, Ge(0), Lt(1)] = 0.2,
    scale: Annotated[float, Ge(0), Le(100)] = 1.0,
    space: Space = "core",
) -> LowRank:
    """Magnitude-aware DARE with TIES' election; `epsilon` is the whole width of the chances.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` where density ± epsilon/2 leaves (0, 1).
    """
    if not 0 < density - epsilon / 2 <= density + epsilon / 2 < 1:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"density ± epsilon/2 must lie within (0, 1): {density} ± {epsilon / 2}",
            "--param epsilon=0.1",
        )

    def merged(taus: np.ndarray) -> np.ndarray:
        kept = []
        for t, key in zip(taus, context.keys, strict=True):
            p = drop_chances(t, density, epsilon)
            kept.append(
                np.where(keep(t.shape, p, context.seed, "della", key, context.module), t / (1 - p), 0.0)
            )
        return scale * elect(np.stack(kept), weights)

    return in_space(parts, space, merged)
