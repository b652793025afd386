"""What an adapter or a checkpoint holds, as data."""

from __future__ import annotations

import collections
import math
import os
from pathlib import Path
from typing import Any

from bp_merge.adapter import Adapter
from bp_merge.adapter_folder import CONFIG
from bp_merge.checkpoint import Checkpoint
from bp_merge.lowrank import LowRank, norm, svd


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Look into an adapter folder, a model folder or a safetensors file.

    Returns:
        {"path", "kind": "adapter" | "checkpoint", …}: of an adapter its base model, overall norm, whole tensors, token
        rows and "modules" [{"name", "shape", "rank", "numerical_rank", "scale", "norm", "largest_singular_value",
        "dora", "embedding"}]; of a checkpoint its parameters, bytes by number type, and "tensors".

    Raises:
        BpError: as `Adapter.load` and `Checkpoint.open`.
    """
    where = Path(path)
    if where.is_file() or (where.is_dir() and not (where / CONFIG).is_file() and any(where.glob("model*"))):
        return _checkpoint(where)
    return _adapter(where)


def _adapter(path: Path) -> dict[str, Any]:
    adapter = Adapter.load(path)
    rows = []
    for name, m in adapter.modules.items():
        part = LowRank.of(m.b, m.a, m.scale)
        s = svd(part).s
        rows.append(
            {
                "name": name,
                "shape": list(m.shape),
                "rank": m.rank,
                "numerical_rank": len(s),
                "scale": m.scale,
                "norm": norm(part),
                "largest_singular_value": float(s[0]) if len(s) else 0.0,
                "dora": m.magnitude is not None,
                "embedding": m.embedding,
            }
        )
    return {
        "path": str(path),
        "kind": "adapter",
        "base_model": adapter.config.get("base_model_name_or_path"),
        "modules": rows,
        "full_tensors": sorted(adapter.full),
        "token_rows": {k: len(v) for k, v in adapter.tokens.items()},
        "norm": math.sqrt(sum(r["norm"] ** 2 for r in rows)),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    with Checkpoint.open(path) as model:
        infos = [model.info(n) for n in model.names]
        by_type: dict[str, int] = collections.defaultdict(int)
        for info in infos:
            by_type[info.dtype] += info.nbytes
        return {
            "path": str(path),
            "kind": "checkpoint",
            "architectures": model.config.get("architectures"),
            "shards": list(model.shards),
            "parameters": sum(math.prod(i.shape) for i in infos),
            "bytes": sum(i.nbytes for i in infos),
            "bytes_by_dtype": dict(sorted(by_type.items())),
            "tensors": [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in infos],
        }


def describe(found: dict[str, Any]) -> str:
    """The same for a reader."""
    if found["kind"] == "checkpoint":
        types = ", ".join(f"{k} {v / 1e6:,.1f} MB" for k, v in found["bytes_by_dtype"].items())
        lines = [f"{found['path']}: {found['parameters']:,} parameters, {types}"]
        return "\n".join(lines + [f"  {t['name']}  {t['dtype']} {t['shape']}" for t in found["tensors"]])
    rows = found["modules"]
    lines = [
        f"{found['path']}: {len(rows)} modules, ‖ΔW‖ {found['norm']:.4g}, base {found['base_model']}",
        *(
            f"  {r['name']}  {r['shape'][0]}×{r['shape'][1]}  r {r['rank']}  s {r['scale']:g}  ‖ΔW‖ {r['norm']:.4g}"
            for r in rows
        ),
        *(f"  {name}  whole" for name in found["full_tensors"]),
        *(f"  {name}  {count} rows" for name, count in found["token_rows"].items()),
    ]
    return "\n".join(lines)
