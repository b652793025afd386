"""Rows of one tensor of the file, read from the checkpoint in blocks and turned into the target's bytes.

- A block is a few MB, whatever the tensor's size, so memory does not grow with the model.
- Values are rounded once: f32 (or the stored type) straight to the target type.
- bf16 to bf16 is a copy, and bf16 to f16 one look-up a weight: all 65,536 results are in a table.
- A value that is NaN or infinite, before or after rounding, is refused with the tensor's name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from bp_merge.common import BpError

from bp_export.gguf.arch import Mapped, TensorSource
from bp_export.gguf.plan import Entry
from bp_export.quant import quantize
from bp_export.quant.types import TYPES

BLOCK_BYTES = 4 << 20  # of f32 input


def row_blocks(t: Mapped) -> list[tuple[int, int]]:
    """Ranges of rows of about `BLOCK_BYTES` of f32; a vector is one row."""
    rows, columns = matrix_shape(t.shape)
    step = max(1, BLOCK_BYTES // (4 * columns))
    return [(i, min(rows, i + step)) for i in range(0, rows, step)]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a tensor; a vector is one row."""
    return (int(np.prod(shape[:-1], dtype=np.int64)), shape[-1])


def values(source: TensorSource, t: Mapped, start: int, stop: int) -> np.ndarray:
    """Rows [start:stop) of the target as f32, (rows, columns)."""
    if t.constant is not None:
        return np.ascontiguousarray(t.constant, np.float32).reshape(matrix_shape(t.shape))[start:stop]
    x = np.asarray(_rows(source.read, t, start, stop), np.float32)
    if t.change == "add_one":
        x = x + np.float32(1)
    elif t.change == "neg_exp":
        x = -np.exp(x)
    return np.ascontiguousarray(x)


def _rows(read, t: Mapped, start: int, stop: int) -> np.ndarray:  # noqa: ANN001
    """Rows of the target in the target's order, through `read(name, start, stop)` of the source."""
    assert t.source is not None
    if len(t.shape) == 1:
        x = read(t.source, 0, t.shape[0])
        return (x if t.rows is None else x[t.rows]).reshape(1, -1)
    if t.stack:
        x = np.concatenate([read(*cut) for cut in _cuts(t, start, stop)])
    elif t.rows is None:
        x = read(t.source, start, stop)
    else:
        order = t.rows[start:stop]
        low, high = int(order.min()), int(order.max()) + 1
        if high - low <= 2 * len(order):
            x = read(t.source, low, high)[order - low]
        else:
            cuts = np.flatnonzero(np.diff(order) != 1) + 1
            x = np.concatenate(
                [read(t.source, int(run[0]), int(run[-1]) + 1) for run in np.split(order, cuts)]
            )
    x = x.reshape(stop - start, t.shape[-1])
    return x if t.columns is None else x[:, t.columns]


def _cuts(t: Mapped, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
    """Rows [start:stop) of a stack as (matrix, first row, end) of each matrix that they lie in."""
    height = t.shape[1]
    for i in range(start // height, -(-stop // height)):
        yield t.stack[i], max(start - i * height, 0), min(stop - i * height, height)


@functools.cache
def _bf16_to_f16() -> np.ndarray:
    """The f16 word of every bf16 word, (65536,) u16; too large ones become infinities."""
    every = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    with np.errstate(over="ignore", invalid="ignore"):
        return every.view(np.float32).astype(np.float16).view(np.uint16)


def _raw_bf16(source: TensorSource, t: Mapped, kind: str) -> bool:
    return (
        kind in ("bf16", "f16")
        and t.source is not None
        and not t.change
        and not {t.source, *t.stack} & set(getattr(source, "touched", ()))
        and all(source.info(name).dtype == "BF16" for name in (t.source, *t.stack))
    )


def encode(source: TensorSource, entry: Entry, start: int, stop: int) -> np.ndarray:
    """Rows [start:stop) of a tensor as the file holds them, (rows, bytes of a row) u8.

    Raises:
        BpError: `INPUT_TENSOR_NOT_FINITE`.
    """
    t, kind = entry.tensor, entry.type
    if _raw_bf16(source, t, kind):
        words = np.ascontiguousarray(_rows(source.read_raw, t, start, stop)).view(np.uint16)
        if kind == "f16":
            words = _bf16_to_f16()[words]
        mask = np.uint16(0x7C00 if kind == "f16" else 0x7F80)
        if ((words & mask) == mask).any():
            raise not_finite(t.source or t.name, kind)
        return words.view(np.uint8)
    x = values(source, t, start, stop)
    # A finite sum proves every value finite; an overflow of the sum alone is settled by the slow test.
    if not np.isfinite(x.sum(dtype=np.float32)) and not np.isfinite(x).all():
        raise not_finite(t.source or t.name, "")
    raw = quantize(x, kind)
    if not stored_finite(raw, kind):
        raise not_finite(t.source or t.name, kind)
    return raw


def not_finite(name: str, kind: str) -> BpError:
    """A weight that cannot be stored."""
    if kind in ("", "f32", "bf16"):
        cause, hint = (
            "holds NaN or infinity",
            "train again from the last good checkpoint: backprop resume RUN",
        )
    else:
        cause, hint = (
            f"has values too large for {kind}",
            "backprop export ADAPTER --format gguf --quantization bf16",
        )
    return BpError("INPUT_TENSOR_NOT_FINITE", f"{name} {cause}", hint, details={"tensor": name})


# Byte offsets of the f16 scales in a block.
_SCALES = {
    "q4_0": (0,),
    "q5_0": (0,),
    "q5_1": (0, 2),
    "q8_0": (0,),
    "q2_k": (80, 82),
    "q3_k": (108,),
    "q4_k": (0, 2),
    "q5_k": (0, 2),
    "q6_k": (208,),
}


def stored_finite(raw: np.ndarray, kind: str) -> bool:
    """Whether no stored number (for block types: no scale) is NaN or infinite.

    Args:
        raw: bytes of whole blocks, u8.
        kind: a key of `TYPES`.
    """
    if kind in ("f32", "f16", "bf16"):
        word, mask = (
            (np.uint32, 0x7F800000) if kind == "f32" else (np.uint16, 0x7C00 if kind == "f16" else 0x7F80)
        )
        return not ((raw.view(word) & word(mask)) == word(mask)).any()
    blocks = raw.reshape(-1, TYPES[kind].nbytes)
    return all(((blocks[:, at + 1] & 0x7C) != 0x7C).all() for at in _SCALES[kind])
