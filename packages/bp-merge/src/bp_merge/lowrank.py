"""Algebra on low-rank changes ΔW = B·A that never forms the m×n matrix.

- Everything is computed in f64 from factors of any type; bf16 inputs lose nothing more.
- The thin SVD comes from the two Gram matrices (R×R) and their eigenvectors; eigenvalues under λmax·R·eps are cut, so
  that nearly equal factors are fine. `svd_qr` is the reference by two QR decompositions.
- Signs are fixed by the largest entry of each left vector, so that results agree between runs.
- What a compression loses, Σ_{i>r}σᵢ² / Σσᵢ², is exact and reported.
- The cost of a sum of N adapters of rank r is ≈ 4(m+n)R² flops with R = N·r; memory is (m+n)·R.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bp_merge.casts import host

EPS = float(np.finfo(np.float64).eps)


def as_numpy(values: Any) -> np.ndarray:
    """An array or a torch tensor (any device) as f64."""
    return host(values).astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = b @ a, b (m, R) f64, a (R, n) f64; with `spectrum` s (R,) descending, b = U√s and a = √s·Vᵀ of its SVD."""

    b: np.ndarray
    a: np.ndarray
    spectrum: np.ndarray | None = None

    @classmethod
    def of(cls, b: Any, a: Any, scale: float = 1.0) -> LowRank:
        """From factors of any floating type (numpy or torch) and a scale."""
        return cls(as_numpy(b) * scale, as_numpy(a))

    @classmethod
    def zeros(cls, shape: tuple[int, int]) -> LowRank:
        """The zero change of rank 1."""
        return cls(np.zeros((shape[0], 1)), np.zeros((1, shape[1])))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def rank(self) -> int:
        """R, the number of columns stored."""
        return self.a.shape[0]

    def __mul__(self, factor: float) -> LowRank:
        return LowRank(self.b * factor, self.a)

    def dense(self) -> np.ndarray:
        """ΔW (m, n)."""
        return self.b @ self.a


@dataclasses.dataclass(frozen=True, eq=False)
class Svd:
    """ΔW = u·diag(s)·vt: u (m, k), s (k,) descending and positive, vt (k, n)."""

    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray

    def low_rank(self, rank: int | None = None) -> LowRank:
        """The balanced factors u√s and √s·vt of the first `rank` values; a zero of rank 1 where there is none."""
        k = len(self.s) if rank is None else min(rank, len(self.s))
        if k == 0:
            return LowRank.zeros((self.u.shape[0], self.vt.shape[1]))
        root = np.sqrt(self.s[:k])
        return LowRank(self.u[:, :k] * root, root[:, None] * self.vt[:k], self.s[:k])


def stack(parts: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """Σ wᵢ·ΔWᵢ exactly, by putting the factors side by side."""
    return LowRank(
        np.concatenate([p.b * w for p, w in zip(parts, weights, strict=True)], axis=1),
        np.concatenate([p.a for p in parts], axis=0),
    )


def _whiten(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Roots of the eigenvalues above the cut, and their vectors, of a symmetric R×R matrix."""
    values, vectors = np.linalg.eigh(gram)
    keep = values > max(float(values[-1]), 0.0) * len(values) * EPS
    return np.sqrt(values[keep]), vectors[:, keep]


def _signs(u: np.ndarray) -> np.ndarray:
    return np.where(u.max(0) >= -u.min(0), 1.0, -1.0)


def _signed(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> Svd:
    k = _kept(s)
    u, s, vt = u[:, :k], s[:k], vt[:k]
    sign = _signs(u) if k else np.ones(0)
    return Svd(u * sign, s, vt * sign[:, None])


def _kept(s: np.ndarray) -> int:
    return int(np.sum(s > (s[0] if len(s) else 0.0) * 1e-9))


def _balanced(u: np.ndarray, s: np.ndarray, vt: np.ndarray) -> LowRank:
    """The balanced factors of an SVD, in the memory of `u` and `vt`."""
    k = _kept(s)
    if not k:
        return LowRank.zeros((u.shape[0], vt.shape[1]))
    u, s, vt = u[:, :k], s[:k], vt[:k]
    scale = np.sqrt(s) * _signs(u)
    return LowRank(np.multiply(u, scale, out=u), np.multiply(vt, scale[:, None], out=vt), s)


def svd(part: LowRank) -> Svd:
    """Thin SVD by Gram matrices; singular values under 1e-9 of the largest are cut."""
    if part.spectrum is not None:
        root = np.sqrt(part.spectrum)
        return Svd(part.b / root, part.spectrum, part.a / root[:, None])
    root_b, v_b = _whiten(part.b.T @ part.b)
    root_a, v_a = _whiten(part.a @ part.a.T)
    if not len(root_b) or not len(root_a):
        return Svd(np.zeros((part.shape[0], 0)), np.zeros(0), np.zeros((0, part.shape[1])))
    p, s, qt = np.linalg.svd(root_b[:, None] * (v_b.T @ v_a) * root_a, full_matrices=False)
    return _signed(part.b @ (v_b / root_b @ p), s, ((qt / root_a) @ v_a.T) @ part.a)


def svd_qr(part: LowRank) -> Svd:
    """The same by QR of both factors: the reference."""
    q_b, r_b = np.linalg.qr(part.b)
    q_a, r_a = np.linalg.qr(part.a.T)
    p, s, qt = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _signed(q_b @ p, s, qt @ q_a.T)


def joint(parts: Sequence[LowRank]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All changes in the left singular basis U = left·turn of [τ₁ … τ_N]: τᵢ = U·coordinatesᵢ.

    Nothing of m rows is formed but `left` itself, and U only in `in_basis`. Coordinates are f32, since what is done to
    them is elementwise.

    Returns:
        left (m, R), turn (R, k), coordinates (N, k, n) f32.
    """
    lefts, rights = [], []
    for p in parts:
        root, v = _whiten(p.a @ p.a.T)
        lefts.append(p.b @ (v * root))  # its Gram matrix is that of τᵢ, whatever the factors
        rights.append((v / root).T @ p.a)
    left = np.concatenate(lefts, axis=1)
    root, v = _whiten(left.T @ left)
    at = np.cumsum([0, *(len(r) for r in rights)])
    coordinates = np.empty((len(parts), len(root), parts[0].shape[1]), np.float32)
    for i, right in enumerate(rights):
        turned = root[:, None] * v[at[i] : at[i + 1]].T
        np.matmul(turned.astype(np.float32), right.astype(np.float32), out=coordinates[i])
    return left, v / root, coordinates


def in_basis(left: np.ndarray, turn: np.ndarray, rows: np.ndarray) -> LowRank:
    """(left·turn)·rows for orthonormal left·turn (m, k), with its SVD from the Gram matrix of the rows (k, n)."""
    root, p = _whiten(rows @ rows.T)
    if not len(root):
        return LowRank.zeros((left.shape[0], rows.shape[1]))
    return _balanced(left @ (turn @ p[:, ::-1]), root[::-1], (p / root)[:, ::-1].T @ rows)


def compress(part: LowRank, rank: int | None = None, energy: float | None = None) -> tuple[LowRank, float]:
    """The best approximation of a rank, or of the least rank that keeps an energy; and what it discards.

    Args:
        part: the change.
        rank: the most columns; None keeps all that are not numerically zero.
        energy: fraction of Σσ² to keep, in (0, 1].

    Returns:
        The balanced factors, and Σ_{discarded}σ² / Σσ² in [0, 1].

    Example:
        σ = (3, 1), rank 1: discarded 1/10. energy 0.9: rank 1.
    """
    whole = part if part.spectrum is not None else svd(part).low_rank()
    s = whole.spectrum if whole.spectrum is not None else np.zeros(0)
    squares = s**2
    total = float(squares.sum())
    k = len(s)
    if energy is not None and k:
        k = min(k, int(np.searchsorted(np.cumsum(squares), energy * total * (1 - 1e-12))) + 1)
    if rank is not None:
        k = min(k, rank)
    if k == len(s):
        return whole, 0.0
    return LowRank(whole.b[:, :k], whole.a[:k], s[:k]), float(squares[k:].sum() / total)


def inner(x: LowRank, y: LowRank) -> float:
    """⟨ΔW_x, ΔW_y⟩ of Frobenius."""
    return float(((x.b.T @ y.b) * (x.a @ y.a.T)).sum())


def norm(x: LowRank) -> float:
    """‖ΔW‖ of Frobenius."""
    if x.spectrum is not None:
        return float(np.linalg.norm(x.spectrum))
    return math.sqrt(max(inner(x, x), 0.0))


def cosine(x: LowRank, y: LowRank) -> float:
    """Cosine of two changes; 0 where one is zero."""
    size = norm(x) * norm(y)
    return float(np.clip(inner(x, y) / size, -1.0, 1.0)) if size else 0.0


def distance(x: LowRank, y: LowRank) -> float:
    """‖ΔW_x − ΔW_y‖ without cancellation (by QR of the stacked difference)."""
    both = stack([x, y], [1.0, -1.0])
    r_b, r_a = (np.asarray(np.linalg.qr(m, mode="r")) for m in (both.b, both.a.T))
    return float(np.linalg.norm(r_b @ r_a.T))


def principal_angles(x: LowRank, y: LowRank) -> np.ndarray:
    """Angles (radians, ascending) between the column spaces of two changes; small ones by their sine."""
    p, q = svd(x).u, svd(y).u
    if p.shape[1] < q.shape[1]:
        p, q = q, p
    cross = p.T @ q
    cos = np.clip(np.linalg.svd(cross, compute_uv=False), 0.0, 1.0)
    sin = np.clip(np.linalg.svd(q - p @ cross, compute_uv=False), 0.0, 1.0)[::-1]
    return np.where(cos > 0.7, np.arcsin(sin), np.arccos(cos))


@dataclasses.dataclass(frozen=True, eq=False)
class Bases:
    """A pair of bases that all changes share, as products: U = left·left_turn (m, p), Vᵀ = right_turnᵀ·right (q, n)."""

    left: np.ndarray
    left_turn: np.ndarray
    right_turn: np.ndarray
    right: np.ndarray

    def change(self, middle: np.ndarray) -> LowRank:
        """U·middle·Vᵀ with its SVD, which is that of `middle` (p, q)."""
        p, s, qt = np.linalg.svd(middle, full_matrices=False)
        return _balanced(self.left @ (self.left_turn @ p), s, (qt @ self.right_turn.T) @ self.right)


def core(parts: Sequence[LowRank]) -> tuple[Bases, np.ndarray]:
    """All changes in one shared pair of bases, and their cores (N, p, q): ΔWᵢ = U·coreᵢ·Vᵀ exactly.

    Each change is first brought to its canonical factors U√σ, √σVᵀ, so that a rotated factorisation changes nothing.
    """
    canonical = [svd(p).low_rank() for p in parts]
    left = np.concatenate([c.b for c in canonical], axis=1)
    right = np.concatenate([c.a for c in canonical])
    root_b, v_b = _whiten(left.T @ left)
    root_a, v_a = _whiten(right @ right.T)
    at = np.cumsum([0, *(c.rank for c in canonical)])
    spans = [slice(x, y) for x, y in itertools.pairwise(at)]
    cores = np.stack([(root_b[:, None] * v_b[i].T) @ (v_a[i] * root_a) for i in spans])
    return Bases(left, v_b / root_b, v_a / root_a, right), cores
