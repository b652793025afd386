"""Between stored floating-point values and f32, without torch.

- Every value is widened to f32 once and rounded to the target once, to nearest with ties to even.
- bf16 goes through ml_dtypes, whose casts run at memory speed and let other threads run. f16 is rounded with integer
  arithmetic, several times faster than numpy's cast and equal to it bit by bit.
- Integers and booleans never become floats here; their bytes are copied.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from bp_merge.settings import TARGETS

BF16 = np.dtype(ml_dtypes.bfloat16)

# safetensors' names of number types → numpy
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BF16,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
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


TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
MAX_F16 = 65504.0


def target(name: str | None) -> str | None:
    """Safetensors' name ("BF16") of one of `TARGETS`; None stays None."""
    return None if name is None else TARGETS[name]


def host(values: Any) -> np.ndarray:
    """A torch tensor of any device and floating type as numpy (bf16 as f32); anything else by numpy's own rules."""
    if hasattr(values, "detach"):
        found = values.detach().cpu()
        return (found.float() if str(found.dtype) == "torch.bfloat16" else found).numpy()
    return np.asarray(values)


def to_f32(values: np.ndarray) -> np.ndarray:
    """Values of any floating type as f32; f32 comes back as it is."""
    return values if values.dtype == np.float32 else values.astype(np.float32)


def from_f32(values: np.ndarray, dtype: str) -> np.ndarray:
    """f32 values rounded once, to nearest even, into the safetensors type `dtype`.

    An f16 overflow becomes inf; the caller, who can name the tensor, looks for it.

    Example:
        1 + 2⁻⁸ lies halfway between the bf16 neighbours 1 and 1 + 2⁻⁷ and goes to the even one, 1.
    """
    if dtype == "F32":
        return values
    if dtype == "F16":
        return _f16(values)
    return values.astype(DTYPES[dtype])


def _f16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    half = magnitude >> np.uint32(13)
    half &= np.uint32(1)  # the last kept bit decides ties
    half += magnitude
    half += np.uint32((((15 - 127) << 23) + 0xFFF) & 0xFFFFFFFF)  # the other exponent bias, and the rounding
    half >>= np.uint32(13)
    small = magnitude < np.uint32((127 - 14) << 23)
    if small.any():  # 0.5 + x has x's f16 subnormal, rounded by the addition, in its low bits
        half[small] = (magnitude[small].view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(
            0x3F000000
        )
    large = magnitude >= np.uint32((127 + 16) << 23)
    if large.any():
        half[large] = np.where(magnitude[large] > np.uint32(0x7F800000), np.uint32(0x7E00), np.uint32(0x7C00))
    half |= (bits >> np.uint32(16)) & np.uint32(0x8000)
    return half.astype(np.uint16).view(np.float16)
