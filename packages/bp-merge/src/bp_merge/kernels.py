"""Element-wise parts of the merge methods on changes or blocks of them, the same for any cut into blocks.

- Random masks are counter-based (Philox): element i of a tensor has the same draw whatever the block, the order or the
  number of threads. The key is 128 bits of SHA-256 over seed, method and what names model and tensor.
- A magnitude threshold is exact: a histogram of the upper 16 bits of |x|, then one of the lower bits of the bin that
  holds the rank. Ties at the threshold are all kept.
- sign(0) is +, as in the TIES code, so that an exact tie elects +.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

DRAWS = 16  # 16-bit draws of one Philox counter


def key_of(*parts: object) -> np.ndarray:
    """A Philox key (2,) u64 from what names the mask."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return np.frombuffer(digest[:16], "<u8").copy()


def draws(key: np.ndarray, start: int, count: int) -> np.ndarray:
    """Draws of elements [start:start+count), uniform u16."""
    first, skip = divmod(start, DRAWS)
    source = np.random.Philox(key=key, counter=np.array([first, 0, 0, 0], np.uint64))
    raw = source.random_raw((skip + count + 3) // 4)
    return raw.astype("<u8", copy=False).view("<u2")[skip : skip + count]


def drop(delta: np.ndarray, keep: float | np.ndarray, key: np.ndarray, start: int = 0) -> np.ndarray:
    """DARE (arXiv:2311.03099): each element is kept with probability `keep` and divided by it; else 0.

    Args:
        delta: (n,) f32 or f64.
        keep: probability, or one for each element (DELLA).
        key: of the mask.
        start: place of the first element in the tensor.

    Example:
        With keep = .5 the elements [1, 2, 3, 4, 5, 6] and draws [high, low, low, high, low, low] give
        [0, 4, 6, 0, 10, 12].
    """
    limit = np.clip(np.rint(np.asarray(keep) * 65536), 1, 65536).astype(delta.dtype)
    kept = draws(key, start, delta.size) < limit
    return delta * (kept * (delta.dtype.type(65536) / limit))


def weighted_sum(parts: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Σ wᵢ·xᵢ in the type of the parts."""
    total = None
    for part, weight in zip(parts, weights, strict=True):
        term = part * part.dtype.type(weight)
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


def elect(parts: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """TIES (arXiv:2306.01708): the sign of the weighted sum; then the weighted mean of those that agree.

    Zeros take no part. A negative weight votes for, and gives, the opposite; the mean divides by Σ|wᵢ| of those that
    agree. Where nobody takes part the result is 0.

    Args:
        parts: changes of one shape, f32 or f64.
        weights: one for each.

    Example:
        [3, -1, 0], [1, -2, 0] and [-2, 2, 4] with equal weights elect [+, -, +] and give [2, -1.5, 4].
    """
    kind = parts[0].dtype.type
    total = weighted_sum(parts, weights)
    sign = np.copysign(kind(1), total, out=total)
    value, vote = np.zeros_like(sign), np.empty_like(sign)
    alike = len({abs(w) for w in weights}) == 1 and len(parts) < 256
    # of bytes where votes need only be counted
    share = np.zeros(sign.shape, np.uint8 if alike else sign.dtype)
    for part, weight in zip(parts, weights, strict=True):
        np.multiply(part, sign, out=vote)
        if weight != 1:
            vote *= kind(weight)
        share += (vote > 0) if alike else (vote > 0) * kind(abs(weight))
        value += np.maximum(vote, 0, out=vote)
    if alike:
        share = np.multiply(share, kind(abs(weights[0])), dtype=sign.dtype)
    value *= sign
    return np.divide(value, share, out=value, where=share > 0)


def della_keep(delta: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """DELLA (arXiv:2406.11617): probabilities by rank of |x| in each row, from density − ε/2 to density + ε/2.

    Args:
        delta: (rows, columns).
        density: mean probability.
        epsilon: width.

    Example:
        row (3, 1, 2), density 0.5, width 0.2 → (0.6, 0.4, 0.5).
    """
    columns = delta.shape[1]
    if columns == 1:
        return np.full(delta.shape, density, np.float32)
    order = np.argsort(np.abs(delta), axis=1, kind="stable")
    places = np.linspace(density - epsilon / 2, density + epsilon / 2, columns, dtype=np.float32)
    found = np.empty(delta.shape, np.float32)
    np.put_along_axis(found, order, np.broadcast_to(places, delta.shape), axis=1)
    return found


Blocks = Callable[[], Iterable[np.ndarray]]


def thresholds(blocks: Blocks, ranks: Sequence[int]) -> list[float]:
    """The magnitudes of the given ranks (0: the largest) among all elements of the blocks; exact.

    Args:
        blocks: gives the blocks (f32, flat), called twice.
        ranks: each below the number of elements.
    """
    upper = np.zeros(1 << 16, np.int64)
    for block in blocks():
        upper += np.bincount(_bits(block) >> np.uint32(16), minlength=1 << 16)
    places = []
    above = upper[::-1].cumsum()
    for rank in ranks:
        place = int(np.searchsorted(above, rank, side="right"))
        places.append(((1 << 16) - 1 - place, rank - (int(above[place - 1]) if place else 0)))
    lower = {bin_: np.zeros(1 << 16, np.int64) for bin_, _ in places}
    for block in blocks():
        bits = _bits(block)
        high = bits >> np.uint32(16)
        for bin_, counts in lower.items():
            inside = bits[high == bin_] & np.uint32(0xFFFF)
            counts += np.bincount(inside, minlength=1 << 16)
    found = []
    for bin_, rest in places:
        low = (1 << 16) - 1 - int(np.searchsorted(lower[bin_][::-1].cumsum(), rest, side="right"))
        found.append(float(np.uint32(bin_ << 16 | low).view(np.float32)))
    return found


def _bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
