"""Merged weights: bp-merge's bake, and the comparison of what it wrote with what was to be written."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .adapter_dir import write_json
from .delta import rounded
from .errors import BpError
from .sources import Inputs

_SIZES = {"BF16": 2, "F16": 2, "F32": 4}
_MARK = ".baked.json"


def plan_merged(inputs: Inputs, dtype: str | None) -> dict[str, Any]:
    """Bytes, tensors, parameters and number type of a merged folder, from the headers."""
    from bp_merge.checkpoint import Checkpoint

    with Checkpoint.open(inputs.base.path) as base:
        infos = [base.info(n) for n in base.names]
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
    inputs: Inputs, staging: Path, dtype: str | None, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Bake into the staging folder (going on where a killed call stopped) and compare samples with the sum."""
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
        verified = _same(source, staging)
    mark.unlink()
    return {**made, "verified": verified}


def _same(source: Any, folder: Path, rows: int = 64) -> bool:
    """Compare names, shapes and sampled rows of every tensor with the sum, rounded once.

    Raises:
        BpError: `RUNTIME_EXPORT_FAILED`.
    """
    from bp_merge.checkpoint import Checkpoint

    with Checkpoint.open(folder) as written:
        wrong = sorted(set(source.names) ^ set(written.names))
        for name in source.names if not wrong else ():
            info, stored = source.info(name), written.info(name)
            stop = min(rows, info.shape[0]) if info.shape else None
            want = rounded(source.read(name, 0, stop), stored.dtype.lower())
            got = written.read(name, 0, stop)
            if tuple(info.shape) != tuple(stored.shape) or not np.array_equal(want, got, equal_nan=True):
                wrong.append(name)
    if wrong:
        raise BpError(
            "RUNTIME_EXPORT_FAILED",
            f"the merged folder differs from base + adapters in {len(wrong)} tensors, the first is {wrong[0]}",
            "run the same command again; if it repeats, report it",
            details={"tensors": wrong},
        )
    return True
