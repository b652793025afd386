"""RegMean from stored input moments."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from bp_merge.lowrank import LowRank, stack
from bp_merge.method import Context, method, non_negative


@method(
    reference="arXiv:2212.09849",
    formula="(Σ wᵢΔWᵢGᵢ)(Σ wᵢGᵢ)⁻¹, Gᵢ = α·SᵢᵀSᵢ + (1−α)·diag(XᵢᵀXᵢ) + ridge",
    laws=("identity", "idempotent", "gauge", "symmetric"),
    needs_moments=True,
)
def regmean(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.9,
    ridge: Annotated[float, Gt(0)] = 1e-3,
) -> LowRank:
    """Each task keeps its outputs on its own inputs. Far ahead of every data-free method where moments exist.

    `context.moments` holds (S (k, n), diagonal (n,)) per adapter. Solved by Woodbury, (Nk)×(Nk), or as n×n
    where the sketches have more rows than that.

    Use it wherever moments were stored. Cost: (Nk)²·n + (Nk)³ for k rows of a sketch, beside the sum's.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a negative weight.
    """
    non_negative("regmean", weights)
    sketches = [
        np.sqrt(alpha * w) * np.asarray(s, np.float64)
        for (s, _), w in zip(context.moments, weights, strict=True)
    ]
    diagonals = [
        w * ((1 - alpha) * np.asarray(g, np.float64) + ridge * float(np.mean(g)) + 1e-300)
        for (_, g), w in zip(context.moments, weights, strict=True)
    ]
    rows = np.concatenate(
        [(p.a @ s.T) @ s + p.a * d for p, s, d in zip(parts, sketches, diagonals, strict=True)]
    )
    d = np.sum(diagonals, axis=0)
    s = np.concatenate(sketches)
    if len(s) < len(d):  # Woodbury
        scaled, half = s / d, rows / d
        small = np.eye(len(s)) + scaled @ s.T
        a = half - np.linalg.solve(small, s @ half.T).T @ scaled
    else:
        a = np.linalg.solve(s.T @ s + np.diag(d), rows.T).T
    return LowRank(stack(parts, [1.0] * len(parts)).b, a)
