"""Every similar pair between two sides, by an exact join: no sketch, no bucket that is cut short.

- Prefix filter (Chaudhuri et al., ICDE 2006): with every set in one global order, the rarest shingle first, two sets
  with J >= t share an element among their first |x| - ceil(t|x|) + 1.
- A row whose prefix meets few rows of the other side is compared with those. Where it meets more than a thirtieth of
  them, its shingles are counted in hashed columns: the product of two rows' counts is at least what they share, so a
  matrix product says which rows cannot be similar, and the few others are compared.
- It shares with `lsh` the sets and the definition, and no code: what that search leaves out is found here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_DENSE_SHARE, _DENSE_LEAST = 1 / 30, 256
_CANDIDATES = 1 << 20
_CELLS = 1 << 23  # of one block of a matrix product: 32 MB


def similar_across(
    values: np.ndarray,
    begin: np.ndarray,
    size: np.ndarray,
    side: np.ndarray,
    threshold: float,
    similar: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (P,) of the held-out side and rows (P,) of the other that are similar.

    Args:
        values: uint32 shingles, each row's distinct.
        begin: (R,) where each row's begin.
        size: (R,) how many it has; rows with none are left out.
        side: (R,) bool, held out.
        threshold: Jaccard similarity.
        similar: (rows a, rows b) -> bool, the verification.
    """
    import numpy as np

    held, rest = np.flatnonzero(side & (size > 0)), np.flatnonzero(~side & (size > 0))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    if not len(held) or not len(rest):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    often = np.zeros(1 << 22, np.int64)
    for rows in (held, rest):
        for low in range(0, len(rows), 1 << 13):
            block = _gather(values, begin, size, rows[low : low + (1 << 13)])
            often += np.bincount(block >> np.uint32(10), minlength=1 << 22)
    ours, our_rows = _prefixes(values, begin, size, held, often, threshold)
    others, other_rows = _prefixes(
        values, begin, size, _holding(values, begin, size, rest, ours), often, threshold
    )
    order = np.argsort(others, kind="stable")
    others, other_rows = others[order], other_rows[order]
    first = np.searchsorted(others, ours)
    meets = np.searchsorted(others, ours, side="right") - first
    order = np.argsort(our_rows, kind="stable")
    our_rows, first, meets = our_rows[order], first[order], meets[order]
    load = np.bincount(our_rows, meets, minlength=len(size))
    dense = load > max(_DENSE_LEAST, _DENSE_SHARE * len(rest))

    def verify(a: np.ndarray, b: np.ndarray) -> None:
        low, high = np.minimum(size[a], size[b]), np.maximum(size[a], size[b])
        keep = low >= threshold * high - 1e-9
        a, b = a[keep], b[keep]
        keep = similar(a, b)
        found.append((a[keep], b[keep]))

    few = ~dense[our_rows] & (meets > 0)
    our_rows, first, meets = our_rows[few], first[few], meets[few]
    total = np.cumsum(meets)
    low = 0
    while low < len(meets):
        done = total[low - 1] if low else 0
        high = max(low + 1, int(np.searchsorted(total, done + _CANDIDATES)))
        n = meets[low:high]
        place = np.repeat(first[low:high] - (np.cumsum(n) - n), n) + np.arange(int(n.sum()))
        pair = np.unique(
            np.repeat(our_rows[low:high], n).astype(np.uint64) << np.uint64(32)
            | other_rows[place].astype(np.uint64)
        )
        verify((pair >> np.uint64(32)).astype(np.int64), (pair & np.uint64(0xFFFFFFFF)).astype(np.int64))
        low = high
    heavy = np.flatnonzero(dense)
    if len(heavy):
        compare_dense(values, begin, size, heavy, rest, threshold, verify)
    a = np.concatenate([f[0] for f in found]) if found else np.zeros(0, np.int64)
    b = np.concatenate([f[1] for f in found]) if found else np.zeros(0, np.int64)
    return a, b


def _holding(
    values: np.ndarray, begin: np.ndarray, size: np.ndarray, rows: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """The rows that hold one of some shingles: of no other can a prefix meet them."""
    import numpy as np

    cells = np.zeros(1 << 22, np.bool_)
    cells[wanted >> np.uint32(10)] = True
    kept = [np.zeros(0, np.int64)]
    for low in range(0, len(rows), 1 << 13):
        block = rows[low : low + (1 << 13)]
        mine = _gather(values, begin, size, block)
        place = np.flatnonzero(cells[mine >> np.uint32(10)])
        place = place[np.isin(mine[place], wanted)]
        kept.append(block[np.unique(np.searchsorted(np.cumsum(size[block]), place, side="right"))])
    return np.concatenate(kept)


def _gather(values: np.ndarray, begin: np.ndarray, size: np.ndarray, rows: np.ndarray) -> np.ndarray:
    import numpy as np

    sizes = size[rows]
    before = np.cumsum(sizes) - sizes
    return values[np.repeat(begin[rows] - before, sizes) + np.arange(int(sizes.sum()))]


def _prefixes(
    values: np.ndarray,
    begin: np.ndarray,
    size: np.ndarray,
    rows: np.ndarray,
    often: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The rarest shingles of each row, as many as a similar row cannot do without: (N,) shingles and their rows."""
    import numpy as np

    shingles, owners = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for low in range(0, len(rows), 1 << 13):
        block = rows[low : low + (1 << 13)]
        sizes = size[block]
        mine = _gather(values, begin, size, block)
        owner = np.repeat(np.arange(len(block)), sizes)
        order = np.lexsort((mine, often[mine >> np.uint32(10)], owner))
        rank = np.arange(len(mine)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        take = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
        shingles.append(mine[order][rank < np.repeat(take, sizes)])
        owners.append(np.repeat(block, take))
    return np.concatenate(shingles), np.concatenate(owners)


def compare_dense(
    values: np.ndarray,
    begin: np.ndarray,
    size: np.ndarray,
    held: np.ndarray,
    rest: np.ndarray,
    threshold: float,
    verify: Callable[[np.ndarray, np.ndarray], None],
) -> None:
    """Compare rows of like size, a block of each side at a time, by products of hashed counts."""
    import numpy as np

    held, rest = (rows[np.argsort(size[rows], kind="stable")] for rows in (held, rest))
    sizes = size[rest]
    low = 0
    while low < len(held):
        width = width_for(int(size[held[low]]))
        step = max(1, min(1024, _CELLS // width))
        block = held[low : low + step]
        block = block[size[block] <= 2 * size[block[0]]]
        low += len(block)
        mine = _counts(values, begin, size, block, width)
        start = int(np.searchsorted(sizes, threshold * size[block[0]] - 1e-9))
        stop = int(np.searchsorted(sizes, size[block[-1]] / threshold + 1e-9, side="right"))
        for other in range(start, stop, step):
            theirs = rest[other : min(other + step, stop)]
            shared = mine @ _counts(values, begin, size, theirs, width).T
            need = (threshold / (1 + threshold)) * (size[block][:, None] + size[theirs][None, :]) - 1e-6
            a, b = np.nonzero(shared >= need)
            for part in range(0, len(a), _CANDIDATES):
                verify(block[a[part : part + _CANDIDATES]], theirs[b[part : part + _CANDIDATES]])


def width_for(size: int) -> int:
    """Hashed columns for rows of so many shingles: two strangers then share an eighth of one's by chance."""
    return min(1 << max(8, (8 * size).bit_length()), 1 << 16)


def _counts(
    values: np.ndarray, begin: np.ndarray, size: np.ndarray, rows: np.ndarray, width: int
) -> np.ndarray:
    """(rows, width) float32: how many shingles of each row fall into each hashed column."""
    import numpy as np

    column = (
        _gather(values, begin, size, rows).astype(np.uint64) * np.uint64(0x9E3779B1) >> np.uint64(7)
    ) % np.uint64(width)
    cell = np.repeat(np.arange(len(rows)) * width, size[rows]) + column.astype(np.int64)
    return np.bincount(cell, minlength=len(rows) * width).reshape(len(rows), width).astype(np.float32)
