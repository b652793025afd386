"""One entry for all number types: rows of f32 in, rows of bytes out, and back.

- Every function works on whole rows and keeps nothing between calls, so blocks of rows can be converted on as many
  threads as there are cores; numpy releases the GIL inside.
- Dequantizing is the gguf library's: what is written here is judged by other people's reader.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from bp_export.quant import kquants, legacy
from bp_export.quant.types import TYPES

_QUANTIZERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "q8_0": legacy.q8_0,
    "q4_0": legacy.q4_0,
    "q5_0": legacy.q5_0,
    "q5_1": legacy.q5_1,
    "q2_k": kquants.q2_k,
    "q3_k": kquants.q3_k,
    "q4_k": kquants.q4_k,
    "q5_k": kquants.q5_k,
    "q6_k": kquants.q6_k,
}


def quantize(x: np.ndarray, kind: str) -> np.ndarray:
    """Convert rows to a number type.

    Args:
        x: (rows, columns) f32, C-contiguous.
        kind: a key of `TYPES`.

    Returns:
        (rows, bytes of a row) u8.

    Raises:
        ValueError: when the columns are no multiple of the type's block.
    """
    rows, columns = x.shape
    width = TYPES[kind].row_bytes(columns)
    if kind == "f32":
        return x.view(np.uint8)
    if kind == "f16":
        with np.errstate(over="ignore"):  # the caller refuses infinities by name
            return x.astype(np.float16).view(np.uint8)
    if kind == "bf16":
        return to_bf16(x).view(np.uint8)
    block = TYPES[kind].block
    return _QUANTIZERS[kind](x.reshape(-1, block)).reshape(rows, width)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Round f32 to the nearest bf16, ties to even; the result is the 16-bit words, u16."""
    bits = x.view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    return (rounded >> np.uint32(16)).astype(np.uint16)


def dequantize(raw: np.ndarray, kind: str) -> np.ndarray:
    """Rows of bytes as f32.

    Args:
        raw: (rows, bytes of a row) u8.
        kind: a key of `TYPES`.

    Returns:
        (rows, columns) f32.
    """
    import gguf

    if kind == "f32":
        return raw.view(np.float32)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float32)
    if kind == "bf16":
        return raw.view(ml_dtypes.bfloat16).astype(np.float32)
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(TYPES[kind].id))
