"""What adapters do to one tensor of a base: products that are added, values or rows that replace its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from bp_merge.casts import to_f32


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """What adapters do to one tensor of the base, seen as a matrix of its first dimension × the rest.

    Attributes:
        source: the tensor of the base that is read.
        factors: give (B, A, scale) each when called, so that an adapter need not lie in memory; the products are added.
        transposed: the factors are (right, left) of the transpose: W is stored (in, out).
        magnitude: DoRA's norm of each output, or None.
        full: values that replace the tensor (stored type), or None.
        rows: (indices (k,), values (k, columns)) that replace rows, or None.
        height: rows of the result where the vocabulary was resized, or None for the base's.
    """

    source: str
    factors: tuple[Callable[[], tuple[np.ndarray, np.ndarray, float]], ...] = ()
    transposed: bool = False
    magnitude: np.ndarray | None = None
    full: np.ndarray | None = None
    rows: tuple[np.ndarray, np.ndarray] | None = None
    height: int | None = None

    def stacked(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All factors as one pair in f32: (rows, R) with the scales in it, and (R, columns)."""
        if not self.factors:
            return None
        found = [factor() for factor in self.factors]
        left = np.concatenate([to_f32(b) * np.float32(s) for b, _, s in found], axis=1)
        right = np.concatenate([to_f32(a) for _, a, _ in found], axis=0)
        if self.transposed:
            left, right = right.T, left.T
        return np.ascontiguousarray(left), np.ascontiguousarray(right)
