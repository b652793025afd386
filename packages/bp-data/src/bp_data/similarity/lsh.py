"""Candidate pairs for near-duplicate search: what may be similar, found without comparing everything.

- Long rows: one-permutation MinHash (arXiv 1208.1259) over 128 bins with rotation densification (arXiv 1406.4784), cut
  into bands. Rows that share a whole band are candidates; P(candidate) = 1 - (1 - J**r)**b.
- Short rows leave most bins empty, so they take the prefix filter (Chaudhuri et al., ICDE 2006): with every set in
  one global order, two sets with J >= t share an element among their first |x| - ceil(t|x|) + 1. Exact at any size;
  rarest shingles come first, so that shared phrases do not make everything a candidate.
- A bucket of more than 256 rows is not squared: rows are compared with up to 8 pivots, and those that form no part of
  the largest star are handed back, to be compared with all.
- Everything here yields candidates only. The caller verifies each by its true Jaccard similarity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BINS = 128  # of the sketch; a power of two, by the top 7 bits of a shingle hash
SMALL = 128  # rows with at most this many distinct shingles are compared by prefix
BUCKET_CAP = 256
PIVOTS = 8
_DF_BITS = 22  # document frequencies are counted in 4 M hashed cells: only the order depends on them
_PERMUTATION = [
    (37 * i + 11) % BINS for i in range(BINS)
]  # neighbouring bins lean on each other once densified

Compare = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]  # (rows a, rows b) -> bool: similar


def bands_for(threshold: float, miss: float = 3e-3) -> tuple[int, int]:
    """Bands and rows per band: the cheapest of four shapes that misses a pair at the threshold less than `miss`."""
    for bands, rows in ((16, 8), (25, 5), (42, 3)):
        if (1 - threshold**rows) ** bands < miss:
            return bands, rows
    return 64, 2


def band_keys(values: np.ndarray, sizes: np.ndarray, bands: int, width: int) -> np.ndarray:
    """(R, bands) uint64 band keys from the shingles of R rows, as `shingle_sets` returns them.

    Sorted sets give the sketch for free: the minimum of a bin is the first hash of each (row, top 7 bits) run.
    """
    import numpy as np

    rows = len(sizes)
    cell = np.repeat(np.arange(rows, dtype=np.int64) * BINS, sizes) + (values >> np.uint32(25))
    first = np.ones(len(cell), np.bool_)
    np.not_equal(cell[1:], cell[:-1], out=first[1:])
    sketch = np.zeros(rows * BINS, np.uint64)
    sketch[cell[first]] = (values[first] & np.uint32(0x1FFFFFF)) + np.uint32(1)
    sketch = sketch.reshape(rows, BINS)
    holes = np.flatnonzero((sketch == 0).any(1))
    if len(holes):
        part = sketch[holes]
        twice = np.concatenate([part, part], 1)
        place = np.where(twice > 0, np.arange(2 * BINS, dtype=np.int32), np.int32(2 * BINS - 1))
        nearest = np.minimum.accumulate(place[:, ::-1], 1)[:, ::-1][:, :BINS]
        distance = (nearest - np.arange(BINS, dtype=np.int32)).astype(np.uint64)
        filled = np.take_along_axis(twice, nearest.astype(np.int64), 1) + (distance << np.uint64(26))
        sketch[holes] = filled
    out = np.zeros((rows, bands), np.uint64)
    columns = np.array(_PERMUTATION[: bands * width]).reshape(bands, width)
    for j in range(width):
        out = (out ^ sketch[:, columns[:, j]]) * np.uint64(0x9FB21C651E98DF25)
        out ^= out >> np.uint64(32)
    return out


def bucket_pairs(
    rows: np.ndarray, keys: np.ndarray, compare: Compare, emit: Callable[..., None]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Emit candidate pairs of rows with equal keys.

    Args:
        rows: (N,) int64 row of each entry.
        keys: (N,) uint64; entries with equal keys form a bucket.
        compare: verifies pairs, used inside large buckets to choose pivots.
        emit: receives two arrays of rows, the smaller row first.

    Returns:
        Of each bucket too large to be squared, where its pivots left any: the rows outside the largest star, all rows.
    """
    import numpy as np

    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    same = keys[1:] == keys[:-1]
    if not same.any():
        return []
    start = np.flatnonzero(np.concatenate([[True], ~same]))
    length = np.diff(np.append(start, len(keys)))
    for size in np.unique(length[(length > 1) & (length <= BUCKET_CAP)]):
        members = rows[start[length == size][:, None] + np.arange(size)]  # (buckets, size)
        i, j = np.triu_indices(int(size), 1)
        for low in range(0, len(members), max(1, (1 << 20) // len(i))):
            block = members[low : low + max(1, (1 << 20) // len(i))]
            emit(block[:, i].ravel(), block[:, j].ravel())
    large = np.flatnonzero(length > BUCKET_CAP)
    crowds = (
        _pivot_pairs(np.unique(rows[start[b] : start[b] + length[b]]), compare, emit) for b in large.tolist()
    )
    return [crowd for crowd in crowds if len(crowd[0])]


def _pivot_pairs(
    rows: np.ndarray, compare: Compare, emit: Callable[..., None]
) -> tuple[np.ndarray, np.ndarray]:
    """Compare a large bucket with pivots, each the first row that no earlier pivot resembles."""
    import numpy as np

    left, largest = rows, np.zeros(0, np.int64)
    for _ in range(PIVOTS):
        if not len(left):
            break
        alike = compare(np.full(len(left), left[0]), left)
        emit(np.full(int(alike.sum()), left[0]), left[alike])
        if alike.sum() > len(largest):
            largest = left[alike]
        left = left[~alike]
    return np.setdiff1d(rows, largest, assume_unique=True), rows


def prefix_entries(
    keys: np.ndarray, rows: np.ndarray, sizes: np.ndarray, frequency: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The prefix of each small row under the order (frequency, hash): (N,) uint64 hashes and (N,) int64 their rows.

    Args:
        keys: sorted `local row << 32 | hash` of these rows.
        rows: (R,) the caller's row numbers.
        sizes: (R,) distinct shingles of each.
        frequency: hashed document frequencies, see `count_frequencies`.
        threshold: Jaccard similarity that must not be missed.

    Example: 10 shingles at threshold 0.8 keep their 10 - 8 + 1 = 3 rarest.
    """
    import numpy as np

    hashes = keys & np.uint64(0xFFFFFFFF)
    often = np.minimum(frequency[(hashes >> np.uint64(32 - _DF_BITS)).astype(np.int64)], (1 << 18) - 1)
    local = keys >> np.uint64(32)
    order = np.lexsort((hashes, often, local))
    begin = np.cumsum(sizes) - sizes
    take = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    take[sizes == 0] = 0
    position = np.repeat(begin - (np.cumsum(take) - take), take) + np.arange(int(take.sum()))
    return hashes[order[position]], np.repeat(rows, take)


def new_frequencies() -> np.ndarray:
    """An empty table of hashed document frequencies (16 MB)."""
    import numpy as np

    return np.zeros(1 << _DF_BITS, np.int32)


def count_frequencies(table: np.ndarray, hashes: np.ndarray) -> None:
    """Add one row's worth of distinct shingles (many rows at once) to the table, in place."""
    import numpy as np

    np.add.at(table, (hashes >> np.uint32(32 - _DF_BITS)).astype(np.int64), 1)


def largest_partner(threshold: float) -> int:
    """Rows up to this many shingles can be similar to a small row, so they take part in the prefix search too."""
    return math.floor(SMALL / threshold + 1e-9)
