"""The quantizers against ggml's own, and on inputs that break naive ones."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from bp_export.quant import TYPES, dequantize, quantize
from bp_export.quant.convert import to_bf16
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCKS = [name for name, t in TYPES.items() if t.block > 1]


def _ggml():
    libggml = pytest.importorskip("libggml", reason="ggml's own quantizers: pip install libggml-python")
    folder = Path(libggml.__file__).parent
    found = [
        p
        for pattern in ("*ggml-base*.so*", "*ggml-base*.dylib", "*ggml-base*.dll")
        for p in folder.rglob(pattern)
    ]
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]

    def run(x: np.ndarray, kind: str) -> np.ndarray:
        out = np.empty((len(x), TYPES[kind].row_bytes(x.shape[1])), np.uint8)
        function(TYPES[kind].id, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], None)
        return out

    return run


def _draw(shape: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if shape == "normal":
        x = rng.standard_normal((64, 2048)) * 0.02
    elif shape == "heavy":
        x = rng.standard_t(3, (64, 2048)) * 0.02
    elif shape == "shifted":
        x = rng.standard_normal((64, 2048)) * 0.02 + 0.05
    else:  # bf16 values of very different rows
        x = rng.standard_normal((64, 2048)) * 10.0 ** rng.uniform(-3, 3, (64, 1))
        x = to_bf16(np.ascontiguousarray(x, np.float32)).astype(np.uint32) << 16
        return x.astype(np.uint32).view(np.float32)
    return np.ascontiguousarray(x, np.float32)


@pytest.mark.parametrize("shape", ["normal", "heavy", "shifted", "bf16"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_those_of_ggml(kind, shape):
    x = _draw(shape)
    ours, theirs = quantize(x, kind), _ggml()(x, kind)
    same = (ours.reshape(-1, TYPES[kind].nbytes) == theirs.reshape(-1, TYPES[kind].nbytes)).all(axis=1).mean()
    assert same >= 0.97
    # row by row, because the rows' magnitudes differ
    error_ours = np.square(dequantize(ours, kind) - x).sum(axis=1, dtype=np.float64)
    error_theirs = np.square(dequantize(theirs, kind) - x).sum(axis=1, dtype=np.float64)
    assert np.sqrt(error_ours.sum() / error_theirs.sum()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_error_is_the_type_s(kind):
    x = _draw("normal", 1)
    error = np.sqrt(np.square(dequantize(quantize(x, kind), kind) - x).mean()) / x.std()
    assert error == pytest.approx(TYPES[kind].error, rel=0.1)


@pytest.mark.parametrize("kind", list(TYPES))
def test_blocks_of_equal_values_zeros_and_one_outlier(kind):
    width = 512
    rows = [
        np.zeros(width),
        np.full(width, 0.5),
        np.full(width, -0.5),
        np.eye(1, width, 7)[0],
        -np.eye(1, width, 7)[0],
    ]
    rows += [np.full(width, 1e-30), np.where(np.arange(width) % 2, 1.0, -1.0), np.linspace(-1, 1, width)]
    x = np.ascontiguousarray(rows, np.float32)
    with np.errstate(all="raise", under="ignore", over="ignore"):
        back = dequantize(quantize(x, kind), kind)
    assert np.isfinite(back).all()
    assert (back[0] == 0).all()
    coarse = 0.35 if kind in ("q2_k", "q3_k") else 0.15
    assert np.abs(back - x).max() <= coarse


@pytest.mark.parametrize("kind", BLOCKS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
@settings(max_examples=15, deadline=None)
def test_rows_are_independent_of_each_other(kind, seed, rows, scale):
    x = (np.random.default_rng(seed).standard_normal((rows, 256)) * scale).astype(np.float32)
    whole = quantize(x.copy(), kind)
    assert np.array_equal(whole, np.concatenate([quantize(x[i : i + 1].copy(), kind) for i in range(rows)]))
    error = np.abs(dequantize(whole, kind) - x).max(axis=1)
    assert (error <= np.abs(x).max(axis=1)).all()


def test_the_input_is_left_as_it_is():
    x = _draw("normal")
    before = x.copy()
    for kind in TYPES:
        quantize(x, kind)
    assert np.array_equal(x, before)


def test_bf16_rounds_to_the_nearest_even():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = _draw("heavy").reshape(-1)
    x = np.concatenate([x, np.float32([0, -0.0, 1.00390625, 1.01171875, 3.3895314e38, 1e-40])])
    assert np.array_equal(to_bf16(x), x.astype(ml_dtypes.bfloat16).view(np.uint16))


def test_odd_rows_are_a_value_error():
    with pytest.raises(ValueError, match="multiple of 256"):
        quantize(np.zeros((1, 128), np.float32), "q4_k")
