"""Base weights with adapters added, read in row blocks like a checkpoint.

- A value is W + Σ wᵢ·ΔWᵢ summed in f32 and rounded at most once, by the caller. Factors of several adapters are stacked,
  so that one product gives their sum; m×n is never formed.
- A tensor is computed in tiles of rows whose bounds depend on its shape alone: any range of rows has the same bits.
- DoRA rescales each output by magnitude / ‖W + ΔW‖: rows of the tile, or columns where W is stored (in, out), whose
  norms take one pass before the first read.
- Every module of an adapter must find its tensor (`bp_merge.edit_plan`); nothing is skipped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from bp_merge.casts import from_f32, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.edit import Edit
from bp_merge.edit_plan import plan_edits
from bp_merge.stfile import TensorInfo

if TYPE_CHECKING:
    from bp_merge.adapter import Adapter

# elements of a tile: 1 MB in f32 stays in the cache, and the allocator does not hand it back each time
TILE = 1 << 18


class Baked:
    """A base with adapters summed in: the reading interface of `Checkpoint`; a context manager.

    Args:
        base: the open checkpoint.
        adapters: adapters of weight 1, or (adapter, weight) each.
        untie: where the base shares one tensor between input embedding and output head and an adapter changes one
            side: give the head a tensor of its own.

    Attributes:
        touched: names of the tensors that differ from the base.
        notes: what was assumed (a renamed prefix, an untied head), for the user.

    Raises:
        BpError: `INPUT_WRONG_BASE`, `INPUT_ADAPTER_UNSUPPORTED`, `INPUT_QUANTIZED_BASE`, `INPUT_TIED_EMBEDDING`.

    Example:
        W = [[1, 0], [0, 1]], B = [[1], [0]], A = [[0, 2]], scale 0.5: the rows read are [[1, 1], [0, 1]].
    """

    def __init__(
        self,
        base: Checkpoint,
        adapters: Sequence[Adapter | tuple[Adapter, float]],
        *,
        untie: bool = False,
    ) -> None:
        self.base = base
        self.adapters = [a if isinstance(a, tuple) else (a, 1.0) for a in adapters]
        planned = plan_edits(base, self.adapters, untie=untie)
        self.edits, self.notes, self.config = planned.edits, planned.notes, planned.config
        self.touched = [n for n in self.names if n in self.edits]
        self._stacked = functools.lru_cache(maxsize=4)(lambda name: self.edits[name].stacked())
        self._norms: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The base's folder."""
        return self.base.path

    @property
    def names(self) -> list[str]:
        """Names of all tensors; a head of its own follows its embedding."""
        names = list(self.base.names)
        for added in (n for n in self.edits if n not in self.base):
            names.insert(names.index(self.edits[added].source) + 1, added)
        return names

    def __contains__(self, name: object) -> bool:
        return name in self.base or name in self.edits

    def info(self, name: str) -> TensorInfo:
        """What will be stored under `name` (place and bytes are the base's)."""
        edit = self.edits.get(name)
        if edit is None:
            return self.base.info(name)
        info = self.base.info(name if name in self.base else edit.source)
        if edit.height is None:
            return dataclasses.replace(info, name=name)
        nbytes = info.nbytes // max(1, info.shape[0]) * edit.height
        return dataclasses.replace(info, name=name, shape=(edit.height, *info.shape[1:]), nbytes=nbytes)

    def read_raw(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop), rounded once to the base's number type."""
        if name not in self.edits:
            return self.base.read_raw(name, start, stop)
        return from_f32(self.read(name, start, stop), self.info(name).dtype)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) as f32."""
        if name not in self.edits:
            return self.base.read(name, start, stop)
        info = self.info(name)
        count = info.shape[0] if info.shape else 1
        start, stop, _ = slice(start, stop).indices(count)
        parts = []
        step = self.tile_rows(name)
        for low in range(start - start % step, stop, step):
            high = min(low + step, count)
            _, tile = self.tile(name, low, high)
            parts.append(tile[max(start - low, 0) : stop - low])
        if not parts:
            return np.empty((0, *info.shape[1:]), np.float32)
        found = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found.reshape(-1, *info.shape[1:]) if info.shape else found.reshape(())

    def tile_rows(self, name: str) -> int:
        """Rows of a tile of the tensor."""
        return max(1, TILE // max(1, math.prod(self.info(name).shape[1:])))

    def tile(self, name: str, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """(W, W') of rows [low:high) in f32, (rows, columns) each; the bounds are a tile's."""
        edit = self.edits[name]
        before = self._stored(edit, low, high)
        after = self._sum(name, edit, before, low, high)
        if edit.magnitude is not None:
            if edit.transposed:
                after = after * self._column_scale(name, edit)
            else:
                norms = np.sqrt(np.einsum("ij,ij->i", after, after, dtype=np.float64)).astype(np.float32)
                after = after * (to_f32(edit.magnitude[low:high]) / norms)[:, None]
        if edit.rows is not None:
            where, values = edit.rows
            inside = (where >= low) & (where < high)
            if inside.any():
                after = after.copy()
                after[where[inside] - low] = values[inside]
        known = max(self.base.info(edit.source).shape[0] - low, 0) if edit.height is not None else high - low
        if known < high - low:  # a row that the base never had is no change of it
            before = np.concatenate([before[:known], after[known:]])
        return before, after

    def _stored(self, edit: Edit, low: int, high: int) -> np.ndarray:
        """Rows of the base in f32 as a matrix; rows beyond the base's are zeros."""
        info = self.base.info(edit.source)
        count = info.shape[0] if info.shape else 1
        stored = self.base.read_raw(edit.source, min(low, count), min(high, count))
        before = to_f32(stored).reshape(-1, max(1, math.prod(info.shape[1:])))
        return np.pad(before, ((0, high - low - len(before)), (0, 0))) if len(before) < high - low else before

    def _sum(self, name: str, edit: Edit, before: np.ndarray, low: int, high: int) -> np.ndarray:
        if edit.full is not None:
            before = to_f32(edit.full[low:high]).reshape(before.shape)
        with self._lock:
            pair = self._stacked(name)
        if pair is None:
            return before
        left, right = pair
        after = left[low:high] @ right
        after += before
        return after

    def _column_scale(self, name: str, edit: Edit) -> np.ndarray:
        """Magnitude / ‖column‖ of W + ΔW, (columns,)."""
        with self._lock:
            found = self._norms.get(name)
        if found is None:
            rows, step = self.info(name).shape[0], self.tile_rows(name)
            squares = np.zeros(math.prod(self.info(name).shape[1:]), np.float64)
            for low in range(0, rows, step):
                high = min(low + step, rows)
                after = self._sum(name, edit, self._stored(edit, low, high), low, high)
                squares += np.einsum("ij,ij->j", after, after, dtype=np.float64)
            found = (to_f32(np.asarray(edit.magnitude)) / np.sqrt(squares)).astype(np.float32)
            with self._lock:
                self._norms[name] = found
        return found

    def close(self) -> None:
        """Close the base."""
        self.base.close()

    def __enter__(self) -> Baked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
