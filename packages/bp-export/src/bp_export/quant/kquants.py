"""The K-quants: super-blocks of 256 weights in groups of 16 or 32, each group with its own small scale.

- The algorithms are ggml's reference ones without an importance matrix: search a scale (and minimum) per group,
  quantize those to 4, 6 or 8 bits against one f16 per super-block, then round every weight anew against the scales
  as stored.
- Input is (blocks, 256) f32, output (blocks, bytes) u8. Work goes in batches that fit the second-level cache.

| type | groups | weight | stored per super-block |
|---|---|---|---|
| q2_k | 16 of 16 | d·sc·q − dmin·m | scales[16] (4+4 bits), qs[64], d, dmin |
| q3_k | 16 of 16 | d·(sc−32)·(q−4) | hmask[32], qs[64], scales[12] (6 bits), d |
| q4_k | 8 of 32 | d·sc·q − dmin·m | d, dmin, scales[12] (6+6 bits), qs[128] |
| q5_k | 8 of 32 | d·sc·q − dmin·m | d, dmin, scales[12], qh[32], qs[128] |
| q6_k | 16 of 16 | d·sc·(q−32) | ql[128], qh[64], scales[16] (i8), d |
"""

from __future__ import annotations

import numpy as np

from bp_export.quant.batched import batched
from bp_export.quant.search import EPS, descended_scale, scale_and_min, signed_scale

_F = np.float32
BATCH = 1024  # super-blocks; 1 MB of f32 an array


def _grouped(x: np.ndarray, n: int) -> np.ndarray:
    """(B, 256) → (n, groups·B), element-major, groups of one super-block side by side."""
    return np.ascontiguousarray(x.reshape(-1, n).T)


def _weights_in_order(q: np.ndarray, blocks: int) -> np.ndarray:
    """(n, groups·B) codes → (B, 256) u8."""
    return q.astype(np.uint8).T.reshape(blocks, 256)


def _f16(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # an infinite scale is refused by the writer
        return x.astype(np.float16)


def _scaled(largest: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """f16 of largest/most, and most/largest (0 where largest is 0): (B,) each."""
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, _F(most) / largest, _F(0)).astype(np.float32)
    return _f16(largest / _F(most)), inverse


def _divide(x: np.ndarray, d: np.ndarray, low: int, high: int) -> np.ndarray:
    """rint(x / d) within [low, high]; 0 where d is 0: (n, G) by (G,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.divide(x, np.where(d == 0, _F(np.inf), d), out=x)
    np.rint(q, out=q)
    np.maximum(q, np.full(x.shape[1], low, np.float32), out=q)
    return np.minimum(q, np.full(x.shape[1], high, np.float32), out=q)


def _pack_6bit_pairs(sc: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Eight 6-bit scales and minima in 12 bytes: (B, 8) u8 each → (B, 12)."""
    out = np.empty((len(sc), 12), np.uint8)
    out[:, :4] = sc[:, :4] | (sc[:, 4:] >> 4) << 6
    out[:, 4:8] = m[:, :4] | (m[:, 4:] >> 4) << 6
    out[:, 8:] = (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4
    return out


def _affine(x: np.ndarray, most: int, first: float, steps: int, error_by: str) -> tuple[np.ndarray, ...]:
    """q4_k and q5_k: d, dmin (B,) f16, packed scales (B, 12), codes (B, 256)."""
    g = _grouped(x, 32)
    w = np.abs(g)
    w += np.sqrt(np.einsum("ng,ng->g", g, g) / _F(32))
    scale, low = scale_and_min(g, w, most, first, 0.1, steps, error_by=error_by)
    scale, low = scale.reshape(-1, 8), low.reshape(-1, 8)
    d, inverse = _scaled(scale.max(axis=1), 63)
    dmin, inverse_min = _scaled(low.max(axis=1), 63)
    sc = np.minimum(np.rint(inverse[:, None] * scale), 63)
    m = np.minimum(np.rint(inverse_min[:, None] * low), 63)
    g += (dmin.astype(np.float32)[:, None] * m).reshape(-1)
    q = _divide(g, (d.astype(np.float32)[:, None] * sc).reshape(-1), 0, most)
    return d, dmin, _pack_6bit_pairs(sc.astype(np.uint8), m.astype(np.uint8)), _weights_in_order(q, len(x))


def _nibbles(q: np.ndarray) -> np.ndarray:
    """Low nibble from the first 32 of every 64 codes, high from the next: (B, 256) → (B, 128)."""
    pairs = q.reshape(-1, 4, 2, 32) & 15
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)


def _q4_k(x: np.ndarray, out: np.ndarray) -> None:
    """4 bits, 4.5 a weight."""
    d, dmin, scales, q = _affine(x, 15, -1.0, 20, "sums")
    out[:, 0:2], out[:, 2:4] = d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2)
    out[:, 4:16], out[:, 16:] = scales, _nibbles(q)


def _q5_k(x: np.ndarray, out: np.ndarray) -> None:
    """5 bits, 5.5 a weight; the fifth bits lie across the eight groups, one byte per position."""
    d, dmin, scales, q = _affine(x, 31, -0.5, 15, "squares")
    out[:, 0:2], out[:, 2:4] = d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2)
    out[:, 4:16], out[:, 48:] = scales, _nibbles(q)
    out[:, 16:48] = np.packbits(q.reshape(-1, 8, 32) >> 4, axis=1, bitorder="little")[:, 0]


def _quarters(q: np.ndarray) -> np.ndarray:
    """Two bits of q[l], q[l+32], q[l+64], q[l+96] of every 128 codes in one byte: (B, 256) → (B, 64)."""
    four = q.reshape(-1, 2, 4, 32) & 3
    return (four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6).reshape(-1, 64)


def _q2_k(x: np.ndarray, out: np.ndarray) -> None:
    """2 bits, 2.6 a weight."""
    g = _grouped(x, 16)
    scale, low = scale_and_min(g, np.abs(g), 3, -0.5, 0.1, 15, error_by="distances")
    scale, low = scale.reshape(-1, 16), low.reshape(-1, 16)
    d, inverse = _scaled(scale.max(axis=1), 15)
    dmin, inverse_min = _scaled(low.max(axis=1), 15)
    sc, m = np.rint(inverse[:, None] * scale), np.rint(inverse_min[:, None] * low)
    g += (dmin.astype(np.float32)[:, None] * m).reshape(-1)
    q = _divide(g, (d.astype(np.float32)[:, None] * sc).reshape(-1), 0, 3)
    out[:, :16] = sc.astype(np.uint8) | m.astype(np.uint8) << 4
    out[:, 16:80] = _quarters(_weights_in_order(q, len(x)))
    out[:, 80:82], out[:, 82:84] = d.view(np.uint8).reshape(-1, 2), dmin.view(np.uint8).reshape(-1, 2)


def _largest_signed(scale: np.ndarray) -> np.ndarray:
    """The scale of largest magnitude of each super-block, with its sign: (B, 16) → (B,)."""
    return np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)[:, 0]


def _signed_scales(scale: np.ndarray, levels: int, least: _F | float) -> tuple[np.ndarray, np.ndarray]:
    """f16 scale of each super-block and the group scales in −levels…levels−1: (B, 16) → (B,) f16, (B, 16) f32."""
    largest = _largest_signed(scale)
    empty = np.abs(largest) <= least
    with np.errstate(divide="ignore"):
        inverse = np.where(empty, _F(0), _F(-levels) / np.where(empty, _F(1), largest)).astype(np.float32)
        d = _f16(np.where(empty, _F(0), _F(1) / np.where(empty, _F(1), inverse)))
    sc = np.clip(np.rint(inverse[:, None] * scale), -levels, levels - 1)
    return d, sc


def _q3_k(x: np.ndarray, out: np.ndarray) -> None:
    """3 bits, 3.4 a weight."""
    g = _grouped(x, 16)
    d, sc = _signed_scales(descended_scale(g, 4).reshape(-1, 16), 32, 0.0)
    q = _divide(g, (d.astype(np.float32)[:, None] * sc).reshape(-1), -4, 3)
    q += _F(4)
    codes = _weights_in_order(q, len(x))
    out[:, :32] = np.packbits(codes.reshape(-1, 8, 32) >> 2, axis=1, bitorder="little")[:, 0]
    out[:, 32:96] = _quarters(codes)
    six = np.where(d[:, None] == 0, 0, sc + 32).astype(np.uint8)
    out[:, 96:104] = (six[:, :8] & 15) | (six[:, 8:] & 15) << 4
    high = six.reshape(-1, 4, 4) >> 4
    out[:, 104:108] = high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6
    out[:, 108:110] = d.view(np.uint8).reshape(-1, 2)


def _q6_k(x: np.ndarray, out: np.ndarray) -> None:
    """6 bits, 6.6 a weight."""
    g = _grouped(x, 16)
    d, sc = _signed_scales(signed_scale(g, 32).reshape(-1, 16), 128, EPS)
    q = _divide(g, (d.astype(np.float32)[:, None] * sc).reshape(-1), -32, 31)
    q += _F(32)
    codes = _weights_in_order(q, len(x)).reshape(-1, 2, 4, 32)
    low = codes & 15
    out[:, :128] = np.stack(
        [low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2
    ).reshape(-1, 128)
    out[:, 128:192] = _quarters(codes.reshape(-1, 256) >> 4)
    out[:, 192:208] = sc.astype(np.int8).view(np.uint8)
    out[:, 208:210] = d.view(np.uint8).reshape(-1, 2)
    out[d == 0] = 0


q2_k = batched(_q2_k, 84, BATCH)
q3_k = batched(_q3_k, 110, BATCH)
q4_k = batched(_q4_k, 144, BATCH)
q5_k = batched(_q5_k, 176, BATCH)
q6_k = batched(_q6_k, 210, BATCH)
