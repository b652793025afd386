"""The numpy quantizers against ggml's C reference on one thread: speed, error, equal blocks, and threads.

    python benchmarks/quantize.py [--rows 512] [--repeat 3]

- Input: rows of 8192 normal values (σ 0.02) in f32. Both run in this process, one after the other, on the same rows.
- The best of the repeats counts, for both: it is what the machine can do when nothing else runs on it.
- ggml comes from the libggml-python wheel (`ggml_quantize_chunk`).
- `threads` is ours on all cores over ours on one.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libggml
import numpy as np
from bp_export.quant import TYPES, dequantize, quantize


def ggml() -> Callable[[np.ndarray, str], np.ndarray]:
    folder = Path(libggml.__file__).parent
    found = [
        p
        for pattern in ("*ggml-base*.so*", "*ggml-base*.dylib", "*ggml-base*.dll")
        for p in folder.rglob(pattern)
    ]
    function = ctypes.CDLL(str(found[0])).ggml_quantize_chunk
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    function.restype = ctypes.c_size_t

    def run(x: np.ndarray, kind: str) -> np.ndarray:
        out = np.empty((len(x), TYPES[kind].row_bytes(x.shape[1])), np.uint8)
        function(TYPES[kind].id, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], None)
        return out

    return run


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=[k for k, t in TYPES.items() if t.block > 1], action="append")
    given = parser.parse_args()
    x = (np.random.default_rng(0).standard_normal((given.rows, 8192)) * 0.02).astype(np.float32)
    parts = np.array_split(x, 16)
    reference, cores = ggml(), os.cpu_count() or 1
    print(
        f"{'type':6} {'ggml MB/s':>10} {'ours MB/s':>10} {'ratio':>6} {'threads':>8} {'equal %':>8} {'error ratio':>12}"
    )
    for kind in given.only or [k for k, t in TYPES.items() if t.block > 1]:
        quantize(x[:16], kind)
        theirs, ours, spread = [], [], []
        for _ in range(given.repeat):
            theirs.append(timed(lambda k=kind: reference(x, k)))
            ours.append(timed(lambda k=kind: [quantize(p, k) for p in parts]))
            with ThreadPoolExecutor(cores) as pool:
                spread.append(timed(lambda k=kind: list(pool.map(lambda p: quantize(p, k), parts))))
        a, b = reference(x, kind), quantize(x, kind)
        n = TYPES[kind].nbytes
        equal = (a.reshape(-1, n) == b.reshape(-1, n)).all(axis=1).mean() * 100
        error = [
            float(np.sqrt(np.square(dequantize(raw, kind) - x).mean(dtype=np.float64))) for raw in (b, a)
        ]
        t, o, s = (min(v) for v in (theirs, ours, spread))
        mb = x.nbytes / 1e6
        print(
            f"{kind:6} {mb / t:10.0f} {mb / o:10.0f} {t / o:6.2f} {o / s:8.2f} {equal:8.2f} {error[0] / error[1]:12.6f}",
            flush=True,
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, {cores} cores")


if __name__ == "__main__":
    main()
