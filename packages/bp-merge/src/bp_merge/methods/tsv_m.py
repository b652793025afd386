"""TSV-M: singular vectors of all tasks made orthogonal to each other."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge

from bp_merge.lowrank import LowRank, svd
from bp_merge.method import Context, method
from bp_merge.methods.task_arithmetic import sum_scale


def polar(x: np.ndarray) -> np.ndarray:
    """The nearest matrix with orthonormal columns, X(XᵀX)^(−½), by pseudo-inverse."""
    values, vectors = np.linalg.eigh(x.T @ x)
    root = np.where(values > values[-1] * len(values) * 1e-14, values, np.inf) ** -0.5
    return x @ (vectors * root) @ vectors.T


@method(
    reference="arXiv:2412.00081",
    formula="α·Û⊥·Ŝ·V̂⊥ᵀ, the stacked singular vectors replaced by their polar factors",
    laws=("identity", "gauge", "symmetric"),
)
def tsv_m(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    scale: Annotated[float | None, Ge(0)] = None,
) -> LowRank:
    """Takes away interference between tasks. α is min(1, 1.2/√n) unless given; the paper's is 1.

    Use it for two to four tasks that differ. Cost: one and a half times the sum's.
    """
    found = [svd(p) for p in parts]
    s = np.concatenate([f.s * w for f, w in zip(found, weights, strict=True)])
    if not len(s):
        return LowRank.zeros(parts[0].shape)
    u, v = polar(np.concatenate([f.u for f in found], 1)), polar(np.concatenate([f.vt for f in found]).T)
    return LowRank(u * (s * (sum_scale(len(parts)) if scale is None else scale)), v.T)
