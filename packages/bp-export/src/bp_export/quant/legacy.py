"""The types with one scale per 32 weights: q8_0, q4_0, q5_0, q5_1.

- Arithmetic is f32 in ggml's order, so that blocks are the same bytes: the inverse of the scale is taken before the
  scale is rounded to f16, and q8_0 rounds half away from zero.
- Input is (blocks, 32) f32, output (blocks, bytes) u8. A block of zeros has scale 0 and codes for zero.
- Work is element-major, (32, B), in batches that fit the second-level cache: reductions and ufuncs then run over long
  contiguous rows. Bounds are rows, not scalars, because numpy's minimum is four times slower against a scalar; codes are packed eight to a 64-bit word.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bp_export.quant.search import signed_pivot

_F = np.float32
BATCH = 2048  # blocks; 256 KB of f32 an array


def _batched(
    kernel: Callable[[np.ndarray, np.ndarray], None], nbytes: int
) -> Callable[[np.ndarray], np.ndarray]:
    def run(x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), nbytes), np.uint8)
        whole = len(x) // 8 * 8
        for i in range(0, whole, BATCH):
            j = min(i + BATCH, whole)
            kernel(np.ascontiguousarray(x[i:j].T), out[i:j])
        if whole < len(x):  # codes are packed eight blocks at a time
            rest = np.zeros((8, 32), np.float32)
            rest[: len(x) - whole] = x[whole:]
            last = np.empty((8, nbytes), np.uint8)
            kernel(np.ascontiguousarray(rest.T), last)
            out[whole:] = last[: len(x) - whole]
        return out

    run.__doc__ = kernel.__doc__
    return run


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(d == 0, _F(0), _F(1) / d)


def _f16(d: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite scale is refused by the writer
        return d.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _q8_0(x: np.ndarray, out: np.ndarray) -> None:
    """8 bits: d = max|x| / 127, q = round(x / d)."""
    d = np.maximum(x.max(axis=0), -x.min(axis=0)) / _F(127)
    x *= _inverse(d)
    # trunc(x + ½) would round 0.49999997 up; this is C's roundf.
    whole = np.trunc(x)
    x -= whole
    x += x
    whole += np.trunc(x, out=x)
    out[:, :2] = _f16(d)
    out[:, 2:] = whole.astype(np.int8).view(np.uint8).T


def _codes(x: np.ndarray, inverse: np.ndarray, offset: float, most: int) -> np.ndarray:
    """trunc(x·inverse + offset), at most `most`: (32, B) → (32, B/8) u64, eight codes a word."""
    x *= inverse
    x += _F(offset)
    q = x.astype(np.uint8)
    np.minimum(q, np.full(x.shape[1], most, np.uint8), out=q)
    return q.view(np.uint64)


def _nibbles(q: np.ndarray) -> np.ndarray:
    """Low four bits of the codes, first half low, second half high: (32, B/8) u64 → (B, 16) u8."""
    fours = np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((q[:16] & fours) | (q[16:] & fours) << np.uint64(4)).view(np.uint8).T


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    """Bit i of a block's 32-bit word is the fifth bit of code i: (32, B/8) u64 → (B, 4) u8."""
    bits = (q >> np.uint64(4) & np.uint64(0x0101010101010101)).reshape(4, 8, -1)
    bits <<= np.arange(8, dtype=np.uint64)[:, None]
    return np.bitwise_or.reduce(bits, axis=1).view(np.uint8).T


def _q4_0(x: np.ndarray, out: np.ndarray) -> None:
    """4 bits: d = pivot / −8, q = trunc(x / d + 8.5), at most 15."""
    d = signed_pivot(x) / _F(-8)
    q = _codes(x, _inverse(d), 8.5, 15)
    out[:, :2] = _f16(d)
    out[:, 2:] = _nibbles(q)


def _q5_0(x: np.ndarray, out: np.ndarray) -> None:
    """5 bits: d = pivot / −16, q = trunc(x / d + 16.5), at most 31."""
    d = signed_pivot(x) / _F(-16)
    q = _codes(x, _inverse(d), 16.5, 31)
    out[:, :2] = _f16(d)
    out[:, 2:6] = _fifth_bits(q)
    out[:, 6:] = _nibbles(q)


def _q5_1(x: np.ndarray, out: np.ndarray) -> None:
    """5 bits and a minimum: d = (max − min) / 31, q = trunc((x − min) / d + 0.5)."""
    low = x.min(axis=0)
    d = (x.max(axis=0) - low) / _F(31)
    x -= low
    q = _codes(x, _inverse(d), 0.5, 31)
    out[:, :2], out[:, 2:4] = _f16(d), _f16(low)
    out[:, 4:8] = _fifth_bits(q)
    out[:, 8:] = _nibbles(q)


q8_0 = _batched(_q8_0, 34)
q4_0 = _batched(_q4_0, 18)
q5_0 = _batched(_q5_0, 22)
q5_1 = _batched(_q5_1, 24)
