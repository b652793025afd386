"""Merged weights: bp-merge's bake, and the comparison of what it wrote with what was to be written.

- Weights, tokenizer, template and licence go into a hidden folder, then one rename.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from bp_merge.casts import to_f32
from threadpoolctl import threadpool_limits

from bp_export.adapter.directory import write_json, write_text
from bp_export.adapter.inputs import Inputs
from bp_export.errors import BpError
from bp_export.formats.estimate import make_plan
from bp_export.formats.places import output_dir, publish, staging_of
from bp_export.formats.prepared import RECORD, Prepared, Progress, Tell, Written
from bp_export.formats.settings import ExportSettings
from bp_export.verify.delta import rounded

_SIZES = {"BF16": 2, "F16": 2, "F32": 4}
_MARK = ".baked.json"
SAMPLED = 64  # rows of each tensor
_BLOCK = 1 << 20  # elements read at once


def prepare_merged(inputs: Inputs, s: ExportSettings, reserve: int) -> Prepared:
    """Decide a merged folder from the headers; no weight is read and nothing is written."""
    out = output_dir(inputs, s)
    staging = staging_of(out)
    figures = plan_merged(inputs, s.dtype)
    plan = make_plan(
        out,
        kind="merged",
        output_bytes=figures["bytes"],
        tensors=figures["tensors"],
        parameters=figures["parameters"],
        reserve_bytes=reserve,
        partial=staging,
        steps=(
            "sum base and adapters in f32, shard by shard",
            "copy tokenizer, template and generation settings",
            "compare every value with the sum"
            if s.verify
            else "compare samples of every tensor with the sum",
        ),
    )

    def write(_reference: Any, tell: Tell, progress: Progress) -> Written:
        made = write_merged(inputs, staging, s.dtype, progress, every=s.verify)
        own = inputs.root / "generation_config.json"  # as trained: it knows where answers end
        if inputs.adapters and own.is_file():
            write_text(staging / own.name, own.read_text("utf-8"))
        publish(staging, out)
        why = "merged weights run in transformers; bp-core compares them there"
        return Written(
            figures["tensors"],
            {"verified": made["verified"]},
            dict.fromkeys(("token_ids_equal", "top1_agreement", "kl"), why),
            made["delta"],
            tuple(made["notices"]),
        )

    return Prepared(out, figures["dtype"], plan, write, out / RECORD, inputs.identity("merged", s.dtype))


def plan_merged(inputs: Inputs, dtype: str | None) -> dict[str, Any]:
    """Bytes, tensors, parameters and number type of a merged folder, from the headers."""
    with inputs.weights() as source:
        infos = [source.info(n) for n in source.names]
    parameters = [math.prod(i.shape) for i in infos]
    floats = [(n, i) for n, i in zip(parameters, infos, strict=True) if i.dtype.upper() in _SIZES]
    target = (dtype or "").upper()
    size = sum(n * _SIZES[target or i.dtype.upper()] for n, i in floats) + sum(
        i.nbytes for i in infos if i.dtype.upper() not in _SIZES
    )
    common = Counter(i.dtype.upper() for i in infos).most_common(1)[0][0]
    return {
        "bytes": size,
        "tensors": len(infos),
        "parameters": sum(parameters),
        "dtype": (target or common).lower(),
    }


def write_merged(
    inputs: Inputs,
    staging: Path,
    dtype: str | None,
    progress: Callable[[int, int], None] | None,
    *,
    every: bool = False,
) -> dict[str, Any]:
    """Bake into the staging folder (going on where a killed call stopped) and compare it with the sum.

    Args:
        inputs: base and adapters.
        staging: the folder to write.
        dtype: number type, the base's when None.
        progress: called with (bytes done, bytes of all).
        every: compare every value, not a sample of each tensor.

    Raises:
        BpError: what `bake` raises; `RUNTIME_EXPORT_FAILED` where the folder differs from the sum,
            `INPUT_TENSOR_NOT_FINITE` where it holds NaN or infinity.
    """
    from bp_merge.adapter import Adapter
    from bp_merge.bake import bake

    mark, identity = staging / _MARK, inputs.identity("merged", dtype)
    if mark.is_file() and json.loads(mark.read_text("utf-8"))["identity"] == identity:
        made = json.loads(mark.read_text("utf-8"))
    else:
        adapters = [Adapter.load(a.path) for a in inputs.adapters]
        try:
            result = bake(inputs.base.path, adapters, staging, dtype=dtype, untie=True, progress=progress)
        except BpError as error:
            if error.code not in ("STATE_RESUME_MISMATCH", "INPUT_PATH_EXISTS"):
                raise
            shutil.rmtree(staging)  # ours, and begun from other inputs
            result = bake(inputs.base.path, adapters, staging, dtype=dtype, untie=True, progress=progress)
        left = result.survival
        made = {
            "identity": identity,
            "delta": None
            if left.coefficient is None
            else {"share": left.coefficient, "relative_rms": left.ratio, "tensors": result.touched},
            "notices": [*result.notes, *result.warnings],
        }
        write_json(mark, made)
    with inputs.weights() as source:
        compare(source, staging, every)
    mark.unlink()
    return {**made, "verified": True}


def compare(source: Any, folder: Path, every: bool) -> None:
    """Read the merged folder back: names, shapes, every number finite, and values against the sum, rounded once.

    Args:
        source: what was to be written.
        folder: what was written.
        every: compare all rows, not only the first `SAMPLED` of each tensor.

    Raises:
        BpError: `RUNTIME_EXPORT_FAILED`, `INPUT_TENSOR_NOT_FINITE`.
    """
    from bp_merge.checkpoint import Checkpoint

    from bp_export.gguf.blocks import not_finite

    def check(name: str) -> str:
        """What is wrong with a tensor; an empty text where nothing is."""
        info, stored = source.info(name), written.info(name)
        if tuple(info.shape) != tuple(stored.shape):
            return "shape"
        rows = info.shape[0] if info.shape else 1
        step = max(1, _BLOCK // max(1, math.prod(info.shape[1:])))
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            raw = written.read_raw(name, start, stop)
            if raw.dtype.kind in "fV" and not finite(raw):
                return "finite"
            if start and not every:
                continue
            stop = stop if every else min(stop, SAMPLED)
            want = rounded(source.read(name, start, stop), stored.dtype.lower())
            if not np.array_equal(want, to_f32(raw[: stop - start])):
                return "values"
        return ""

    with (
        Checkpoint.open(folder) as written,
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
    ):
        wrong = sorted(set(source.names) ^ set(written.names))
        names = [] if wrong else list(source.names)
        told = {n: why for n, why in zip(names, pool.map(check, names), strict=True) if why}
    bad = [n for n, why in told.items() if why == "finite"]
    if bad:
        shutil.rmtree(folder)
        raise not_finite(bad[0], "")
    wrong += list(told)
    if wrong:
        raise BpError(
            "RUNTIME_EXPORT_FAILED",
            f"the merged folder differs from base + adapters in {len(wrong)} tensors, the first is {wrong[0]}",
            "run the same command again; if it repeats, report it",
            details={"tensors": wrong},
        )


def finite(raw: np.ndarray) -> bool:
    """Whether no stored number is NaN or infinite (f64, f32, f16, bf16)."""
    if raw.dtype.itemsize == 2:
        mask = np.uint16(0x7C00 if raw.dtype == np.float16 else 0x7F80)
        return not ((raw.view(np.uint16) & mask) == mask).any()
    return bool(np.isfinite(raw).all())
