"""Between bf16, f16 and f32 in numpy, rounded to nearest even, without copies that are not needed.

- bf16 is the upper half of an f32: widening is a shift, narrowing a rounding add and a shift.
- numpy has no bf16: stored words are uint16 with `ml_dtypes.bfloat16` as their view.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)

# safetensors' names of number types → numpy
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BF16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES: dict[np.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")


def to_f32(values: np.ndarray) -> np.ndarray:
    """Values as f32; bf16 by a shift."""
    if values.dtype == BF16:
        wide = np.left_shift(values.view(np.uint16), 16, dtype=np.uint32)
        return wide.view(np.float32)
    return np.asarray(values, np.float32)


def from_f32(values: np.ndarray, dtype: str) -> np.ndarray:
    """f32 values rounded once, to nearest even, into the safetensors type `dtype`.

    Example:
        1 + 2⁻⁸ lies halfway between the bf16 neighbours 1 and 1 + 2⁻⁷ and goes to the even one, 1.
    """
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        odd = np.right_shift(bits, 16)
        odd &= 1
        odd += 0x7FFF
        odd += bits
        odd >>= 16
        words = odd.astype(np.uint16)
        nan = np.isnan(values)
        if nan.any():
            words[nan] = 0x7FC0
        return words.view(BF16)
    with np.errstate(over="ignore"):  # an overflow to inf is found by the caller, who can name the tensor
        return np.asarray(values).astype(DTYPES[dtype])
