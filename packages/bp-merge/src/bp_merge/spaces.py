"""Where elementwise methods act on low-rank changes, and the elementwise steps that they share.

- `core`: R×R coordinates in the shared bases of the canonical factors (arXiv:2509.17786). The default: lossless,
  gauge-free, and its cost is that of the sum.
- `knots`: coordinates SVᵢᵀ (k, n) in the left basis of [τ₁ … τ_N] (arXiv:2410.19735).
- `dense`: the elements of ΔW (m, n) themselves, as the papers of TIES, DARE, DELLA and breadcrumbs say. Formed module by
  module; the result has full rank, and cutting it to an adapter's rank loses much of it.
- A threshold keeps everything at least as large as the k-th largest, so that equal elements are treated alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from bp_merge.lowrank import LowRank, basis, core, svd

Space = Literal["core", "knots", "dense"]


def in_space(parts: Sequence[LowRank], space: str, function: Callable[[np.ndarray], np.ndarray]) -> LowRank:
    """Apply `function` (N, p, q) → (p, q) to the coordinates of the changes, and return the change it stands for."""
    if space == "core":
        u, cores, vt = core(parts)
        if not cores.size:
            return LowRank.zeros(parts[0].shape)
        return LowRank(u, function(cores) @ vt)
    if space == "knots":
        canonical = [svd(p).low_rank() for p in parts]
        q = basis([c.b for c in canonical])
        if not q.shape[1]:
            return LowRank.zeros(parts[0].shape)
        lefts = [q.T @ c.b for c in canonical]
        gram = sum(l @ (c.a @ c.a.T) @ l.T for l, c in zip(lefts, canonical, strict=True))
        _, turn = np.linalg.eigh(np.asarray(gram))
        coordinates = np.stack([(turn.T @ l) @ c.a for l, c in zip(lefts, canonical, strict=True)])
        return LowRank(q @ turn, function(coordinates))
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
    limit = np.partition(flat, flat.size - k)[flat.size - k]
    return np.where(np.abs(values) >= limit, values, 0.0)
