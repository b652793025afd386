"""OPCM: adapters of a sequence, each projected off what is there."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from bp_merge.lowrank import LowRank, norm, stack, svd
from bp_merge.method import Context, method


@method(
    reference="arXiv:2501.09522",
    formula="D ← (λ·D + τ')/λ', τ' = τ without D's leading block and diagonal; ‖D‖ = mean ‖τᵢ‖",
    laws=("identity", "gauge"),
)
def opcm(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
) -> LowRank:
    """For adapters that come one after the other; order matters. Norms are kept per module.

    Use it where adapters arrive over time and earlier ones are not kept. Cost: N−1 SVDs of growing rank, about
    N/2 sums.
    """
    merged = parts[0] * weights[0]
    norms, factor = [norm(merged)], 1.0
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        tau, found = part * weight, svd(merged)
        norms.append(norm(tau))
        if not len(found.s):
            merged = tau
            continue
        share = np.cumsum(found.s) / found.s.sum()
        k = int(np.searchsorted(share, alpha, side="right")) + 1
        z = (found.u.T @ tau.b) @ (tau.a @ found.vt.T)
        gone = np.eye(len(z), dtype=bool)
        gone[:k, :k] = True
        projected = stack([tau, LowRank(found.u @ np.where(gone, z, 0.0), found.vt)], [1.0, -1.0])
        summed = stack([merged, projected], [factor, 1.0])
        size = norm(summed)
        factor = size / float(np.mean(norms)) if size and norms else 1.0
        merged = svd(summed * (1 / factor)).low_rank()
    return merged
