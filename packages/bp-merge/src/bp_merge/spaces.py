"""Where elementwise methods act on low-rank changes, and the elementwise steps that they share.

- `knots`: coordinates SVᵢᵀ (R, n) in the left basis of [τ₁ … τ_N] (arXiv:2410.19735). The default: gauge-free, of rank R,
  and on the toy problem of `benchmarks/merge_methods.py` as good as `dense` with every method.
- `core`: R×R coordinates in the shared bases of the canonical factors (arXiv:2509.17786). The cheapest; but what a mask or a
  threshold does falls wholly into the directions that the tasks use, and costs there.
- `dense`: the elements of ΔW (m, n) themselves, as the papers of TIES, DARE, DELLA and breadcrumbs say. Formed module by
  module; the result has full rank, and cutting it to an adapter's rank loses much of it.
- A threshold keeps everything at least as large as the k-th largest, so that equal elements are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from bp_merge.kernels import thresholds
from bp_merge.lowrank import LowRank, core, in_basis, joint

Space = Literal["core", "knots", "dense"]


def in_space(parts: Sequence[LowRank], space: str, function: Callable[[np.ndarray], np.ndarray]) -> LowRank:
    """Apply `function` (N, p, q) → (p, q) to the coordinates of the changes, and return the change it stands for."""
    if space == "core":
        bases, cores = core(parts)
        return bases.change(function(cores)) if cores.size else LowRank.zeros(parts[0].shape)
    if space == "knots":
        left, turn, coordinates = joint(parts)
        if not turn.shape[1]:
            return LowRank.zeros(parts[0].shape)
        return in_basis(left, turn, function(coordinates).astype(np.float64))
    merged = function(np.stack([p.dense() for p in parts]))
    m, n = merged.shape
    return LowRank(np.eye(m), merged) if m <= n else LowRank(merged, np.eye(n))


def trim(values: np.ndarray, density: float) -> np.ndarray:
    """Keep the fraction `density` of largest absolute value, zero the rest.

    Example:
        (3, -1, 2, 0) at density 0.5 → (3, 0, 2, 0).
    """
    flat = np.abs(values).reshape(-1)
    k = max(1, round(density * flat.size))
    if k >= flat.size:
        return values
    if flat.dtype == np.float32:
        limit = thresholds(lambda: [flat], [k - 1])[0]
    else:
        limit = np.partition(flat, flat.size - k)[flat.size - k]
    return values * (flat >= flat.dtype.type(limit)).reshape(values.shape)
