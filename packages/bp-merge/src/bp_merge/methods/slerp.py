"""Spherical interpolation of two changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Le

from bp_merge.common import BpError
from bp_merge.lowrank import LowRank, cosine, norm, stack
from bp_merge.method import Context, method


def place(t: float | None, weights: Sequence[float]) -> float:
    """The place between the first (0) and the second (1): `t`, or w₁/(w₀+w₁).

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a negative weight, or both 0.
    """
    if t is not None:
        return t
    if min(weights) < 0 or not sum(weights):
        raise BpError(
            "INPUT_VALIDATION_FAILED", "slerp needs weights ≥ 0 with a positive sum", "use --weights 1,1"
        )
    return weights[1] / sum(weights)


@method(
    reference="Shoemake 1985, doi:10.1145/325165.325242",
    formula="sin((1−t)θ)/sinθ·ΔW₀ + sin(tθ)/sinθ·ΔW₁, θ the angle of the two",
    laws=("identity", "idempotent", "gauge", "symmetric"),
)
def slerp(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    t: Annotated[float | None, Ge(0), Le(1)] = None,
) -> LowRank:
    """Along the arc between two changes, each module for itself; t = w₁/(w₀+w₁) unless given.

    Use it for two adapters of kindred tasks. Nearly parallel or zero changes are interpolated on the line.
    Cost: that of the sum, 4(m+n)R² operations for R = Σrᵢ.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for more than two changes, weights that sum to 0, or opposite changes.
    """
    if len(parts) == 1:
        return parts[0]
    if len(parts) != 2:
        raise BpError(
            "INPUT_VALIDATION_FAILED", f"slerp takes two adapters, not {len(parts)}", "use --method linear"
        )
    t = place(t, weights)
    cos = cosine(*parts)
    if cos < -0.9995:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{context.module}: the two changes are opposite, no arc joins them",
            "use --method linear",
        )
    if cos > 0.9995 or not norm(parts[0]) or not norm(parts[1]):
        return stack(parts, [1 - t, t])
    theta = math.acos(cos)
    return stack(parts, [math.sin((1 - t) * theta) / math.sin(theta), math.sin(t * theta) / math.sin(theta)])
