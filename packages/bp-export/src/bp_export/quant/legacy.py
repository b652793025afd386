"""The types with one scale per 32 weights: q8_0, q4_0, q5_0, q5_1.

- Arithmetic is f32 in ggml's order, so that blocks are the same bytes: the inverse of the scale is taken before the
  scale is rounded to f16, and q8_0 rounds half away from zero.
- Input is (blocks, 32) f32, output (blocks, bytes) u8. A block of zeros has scale 0 and codes for zero.
- Work is in fours, (8, 4·B): four neighbouring weights of every block side by side, in batches that fit the second-level
  cache. Reductions and ufuncs then run over long contiguous rows, and turning the array round moves 16 bytes at a time.
- Bounds are rows, not scalars, because numpy's minimum is four times slower against a scalar; codes are packed four to a
  32-bit word and put into the blocks as words.
"""

from __future__ import annotations

import numpy as np

from bp_export.quant.batched import batched

_F = np.float32
BATCH = 4096  # blocks; 512 KB of f32 an array


def _fours(x: np.ndarray) -> np.ndarray:
    """(B, 32) → (8, 4·B), a copy."""
    return np.ascontiguousarray(x.view(np.complex128).T).view(np.float32)


def _each(per_block: np.ndarray) -> np.ndarray:
    """(B,) → (4·B,): one value for each of a block's four columns."""
    return np.repeat(per_block, 4)


def _over_block(reduce: np.ufunc, g: np.ndarray) -> np.ndarray:
    """A reduction over all 32 weights of a block: (8, 4·B) → (B,)."""
    return reduce.reduce(np.ascontiguousarray(reduce.reduce(g, axis=0).reshape(-1, 4).T), axis=0)


def _pivot(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The weight of largest magnitude of each block, with its sign, the first of equals: (B,)."""
    high, low = _over_block(np.maximum, g), _over_block(np.minimum, g)
    pivot = np.where(-low > high, low, high)
    tie = np.flatnonzero((-low == high) & (high > 0))
    if tie.size:
        pivot[tie] = x[tie, np.abs(x[tie]).argmax(axis=1)]
    return pivot


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(d == 0, _F(0), _F(1) / d)


def _put(out: np.ndarray, at: int, words: np.ndarray) -> None:
    """Write (n, B) words one after the other into every block, from byte `at` on; they need not be aligned there."""
    size = words.itemsize
    np.ndarray(words.T.shape, words.dtype, out, at, (out.shape[1], size))[...] = words.T


def _put_f16(out: np.ndarray, at: int, d: np.ndarray) -> None:
    with np.errstate(over="ignore"):  # an infinite scale is refused by the writer
        _put(out, at, d.astype(np.float16)[None])


def _q8_0(x: np.ndarray, out: np.ndarray) -> None:
    """8 bits: d = max|x| / 127, q = round(x / d)."""
    g = _fours(x)
    d = np.maximum(_over_block(np.maximum, g), -_over_block(np.minimum, g)) / _F(127)
    g *= _each(_inverse(d))
    # trunc(x + ½) would round 0.49999997 up; this is C's roundf.
    whole = np.trunc(g)
    g -= whole
    g += g
    whole += np.trunc(g, out=g)
    _put_f16(out, 0, d)
    _put(out, 2, whole.astype(np.int8).view(np.uint32))


def _codes(g: np.ndarray, inverse: np.ndarray, offset: float, most: int) -> np.ndarray:
    """trunc(x·inverse + offset), at most `most`: (8, 4·B) → (8, B) u32, four codes a word."""
    g *= _each(inverse)
    g += _F(offset)
    q = g.astype(np.uint8)
    np.minimum(q, np.full(g.shape[1], most, np.uint8), out=q)
    return q.view(np.uint32)


def _nibbles(q: np.ndarray) -> np.ndarray:
    """Low four bits of the codes, first half low, second half high: (8, B) u32 → (4, B) u32."""
    fours = np.uint32(0x0F0F0F0F)
    return (q[:4] & fours) | (q[4:] & fours) << np.uint32(4)


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    """Bit i of a block's 32-bit word is the fifth bit of code i: (8, B) u32 → (1, B) u32."""
    bits = q >> np.uint32(4) & np.uint32(0x01010101)  # at 0, 8, 16, 24
    bits |= bits >> np.uint32(7)
    bits |= bits >> np.uint32(14)
    bits &= np.uint32(15)
    bits <<= np.arange(0, 32, 4, dtype=np.uint32)[:, None]
    return np.bitwise_or.reduce(bits, axis=0, keepdims=True)


def _q4_0(x: np.ndarray, out: np.ndarray) -> None:
    """4 bits: d = pivot / −8, q = trunc(x / d + 8.5), at most 15."""
    g = _fours(x)
    d = _pivot(x, g) / _F(-8)
    q = _codes(g, _inverse(d), 8.5, 15)
    _put_f16(out, 0, d)
    _put(out, 2, _nibbles(q))


def _q5_0(x: np.ndarray, out: np.ndarray) -> None:
    """5 bits: d = pivot / −16, q = trunc(x / d + 16.5), at most 31."""
    g = _fours(x)
    d = _pivot(x, g) / _F(-16)
    q = _codes(g, _inverse(d), 16.5, 31)
    _put_f16(out, 0, d)
    _put(out, 2, _fifth_bits(q))
    _put(out, 6, _nibbles(q))


def _q5_1(x: np.ndarray, out: np.ndarray) -> None:
    """5 bits and a minimum: d = (max − min) / 31, q = trunc((x − min) / d + 0.5)."""
    g = _fours(x)
    low = _over_block(np.minimum, g)
    d = (_over_block(np.maximum, g) - low) / _F(31)
    g -= _each(low)
    q = _codes(g, _inverse(d), 0.5, 31)
    _put_f16(out, 0, d)
    _put_f16(out, 2, low)
    _put(out, 4, _fifth_bits(q))
    _put(out, 8, _nibbles(q))


q8_0 = batched(_q8_0, 34, BATCH)
q4_0 = batched(_q4_0, 18, BATCH)
q5_0 = batched(_q5_0, 22, BATCH)
q5_1 = batched(_q5_1, 24, BATCH)
