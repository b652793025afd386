"""The types with one scale per 32 weights: q8_0, q4_0, q5_0, q5_1.

- Arithmetic is f32 in ggml's order, so that blocks are the same bytes: the inverse of the scale is taken before the
  scale is rounded to f16, and q8_0 rounds half away from zero.
- Input is (blocks, 32) f32, output (blocks, bytes) u8. A block of zeros has scale 0 and codes for zero.
"""

from __future__ import annotations

import numpy as np


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _pivot(x: np.ndarray) -> np.ndarray:
    """The value of largest magnitude of each block, with its sign: (blocks, 1)."""
    high, low = x.max(axis=1, keepdims=True), x.min(axis=1, keepdims=True)
    # ggml keeps the first of equal magnitudes; only a tie of +m and −m needs the order.
    pivot = np.where(-low > high, low, high)
    tie = np.flatnonzero((-low == high)[:, 0] & (high[:, 0] > 0))
    if tie.size:
        pivot[tie, 0] = x[tie, np.abs(x[tie]).argmax(axis=1)]
    return pivot


def _f16(d: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite scale is refused by the writer
        return d.astype(np.float16).view(np.uint8)


def q8_0(x: np.ndarray) -> np.ndarray:
    """8 bits: d = max|x| / 127, q = round(x / d)."""
    d = np.maximum(x.max(axis=1, keepdims=True), -x.min(axis=1, keepdims=True)) / np.float32(127)
    scaled = x * _inverse(d)
    # trunc(x + copysign(0.5)) would round 0.49999997 up; this is roundf.
    whole = np.trunc(scaled)
    scaled -= whole
    scaled *= 2
    np.trunc(scaled, out=scaled)
    whole += scaled
    out = np.empty((len(x), 34), np.uint8)
    out[:, :2] = _f16(d)
    out[:, 2:] = whole.astype(np.int8).view(np.uint8)
    return out


def _codes(x: np.ndarray, divisor: int, offset: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    d = _pivot(x) / np.float32(divisor)
    scaled = x * _inverse(d)
    scaled += np.float32(offset)
    np.minimum(scaled, np.float32(most), out=scaled)
    return d, scaled.astype(np.uint8)


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def q4_0(x: np.ndarray) -> np.ndarray:
    """4 bits: d = pivot / −8, q = trunc(x / d + 8.5), at most 15."""
    d, q = _codes(x, -8, 8.5, 15)
    out = np.empty((len(x), 18), np.uint8)
    out[:, :2] = _f16(d)
    out[:, 2:] = q[:, :16] | (q[:, 16:] << 4)
    return out


def q5_0(x: np.ndarray) -> np.ndarray:
    """5 bits: d = pivot / −16, q = trunc(x / d + 16.5), at most 31."""
    d, q = _codes(x, -16, 16.5, 31)
    out = np.empty((len(x), 22), np.uint8)
    out[:, :2] = _f16(d)
    out[:, 2:6] = _fifth_bits(q)
    out[:, 6:] = (q[:, :16] & 15) | (q[:, 16:] << 4)
    return out


def q5_1(x: np.ndarray) -> np.ndarray:
    """5 bits and a minimum: d = (max − min) / 31, q = trunc((x − min) / d + 0.5)."""
    low = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - low) / np.float32(31)
    q = ((x - low) * _inverse(d) + np.float32(0.5)).astype(np.uint8)
    out = np.empty((len(x), 24), np.uint8)
    out[:, :2] = _f16(d)
    out[:, 2:4] = _f16(low)
    out[:, 4:8] = _fifth_bits(q)
    out[:, 8:] = (q[:, :16] & 15) | (q[:, 16:] << 4)
    return out
