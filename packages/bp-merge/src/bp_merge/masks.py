"""Random masks that depend on the seed and on names alone: not on order, threads or how a tensor is split.

- Philox, a counter-based generator; its key is the first 128 bits of SHA-256(seed, method, adapter, tensor).
- Element i is 16 bits of the stream at position i; it is kept where they are ≥ ⌊p·65536⌋, p the chance to drop.
"""

from __future__ import annotations

import hashlib

import numpy as np


def bits(count: int, *name: object) -> np.ndarray:
    """`count` uniform 16-bit numbers of the stream called by `name`."""
    digest = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    words = generator.random_raw(-(-count // 4))
    return np.asarray(words, "<u8").view("<u2")[:count]


def keep(shape: tuple[int, ...], drop: float | np.ndarray, *name: object) -> np.ndarray:
    """A boolean mask: False with the chance `drop` (a number, or one per element)."""
    limit = np.floor(np.asarray(drop) * 65536)
    return bits(int(np.prod(shape)), *name).reshape(shape) >= limit
