"""Bake adapters into a base model: a folder of weights like the base's, written shard by shard.

- Same file names, header order and metadata as the base. What no adapter touches is copied byte by byte; a shard that
  holds nothing else is identical to the base's.
- W + ΔW is summed in f32 and rounded once, to nearest even, to the base's number type or to `dtype`.
- Rounding can eat a small change: ‖Q(W+Δ)−Q(W)‖/‖Δ‖ and the coefficient ⟨Q(W+Δ)−W, Δ⟩/‖Δ‖² (1: the change arrives whole,
  .5: half of it) are reported per tensor and over all. A bf16 result loses more than a tenth below rms Δ / rms W ≈ 3e-3.
- An overflow of f16 is an error that names the tensor, never an infinity in the file.
- `bake.json`, written last, records inputs by hash, settings, versions and the hash of every file. It has no date: the
  same input on the same libraries and processor gives the same bytes.
"""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bp_merge.baked import Baked
from bp_merge.casts import FLOATS, from_f32, target, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import SCHEMA_VERSION, build
from bp_merge.edit import Edit
from bp_merge.settings import BakeSettings
from bp_merge.shards import (
    BLOCK,
    Block,
    Output,
    Progress,
    Shard,
    Task,
    check_space,
    fingerprint,
    identity_of,
    peak_rss_mb,
    workers,
    write_index,
    write_shards,
)
from bp_merge.stfile import TensorInfo, layout
from bp_merge.survival import Survival, rounded, warnings_of
from bp_merge.textfiles import copy_text_files

if TYPE_CHECKING:
    from bp_merge.adapter import Adapter

MANIFEST = "bake.json"
COPY = 4 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class BakeResult:
    """What `bake` did.

    Attributes:
        output: the folder.
        files: name → SHA-256.
        dtype: number type asked for, or None for the base's own.
        tensors: tensors written.
        touched: how many of them differ from the base.
        survival: over all touched tensors.
        by_tensor: the same for each.
        notes: what was assumed.
        warnings: what the user should know.
        reused: files kept from an earlier, killed call.
        nbytes: bytes of weights.
        seconds: wall time.
        peak_rss_mb: most memory of this process.
    """

    output: Path
    files: Mapping[str, str]
    dtype: str | None
    tensors: int
    touched: int
    survival: Survival
    by_tensor: Mapping[str, Survival]
    notes: Sequence[str]
    warnings: Sequence[str]
    reused: Sequence[str]
    nbytes: int
    seconds: float
    peak_rss_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        found = dataclasses.asdict(self)
        return {**found, "output_path": str(found.pop("output"))}


@dataclasses.dataclass(frozen=True)
class BakePlan:
    """What a bake would write and need.

    Attributes:
        output: the folder.
        nbytes: bytes of weights.
        shards: file name → bytes.
        tensors: tensors in all.
        touched: tensors that differ from the base.
        dtype: number type asked for, or None for the base's own.
        memory_mb: estimate of the most memory.
        free: bytes free on the disk.
        notes: what was assumed.
    """

    output: Path
    nbytes: int
    shards: Mapping[str, int]
    tensors: int
    touched: int
    dtype: str | None
    memory_mb: float
    free: int
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return plan_dict(self)


def plan_dict(plan: Any) -> dict[str, Any]:
    """A plan as JSON-able data, sizes in MB as every plan has them."""
    found = dataclasses.asdict(plan)
    disk, free = found.pop("nbytes"), found.pop("free")
    return {
        "output_path": str(found.pop("output")),
        **found,
        "disk_mb": math.ceil(disk / 1e6),
        "free_mb": free // 1_000_000,
    }


def bake(
    base: Checkpoint | str | os.PathLike[str],
    adapters: Sequence[Adapter | tuple[Adapter, float]],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = BakeSettings.dtype,
    untie: bool = BakeSettings.untie,
    progress: Progress | None = None,
) -> BakeResult:
    """Write base + adapters as a model folder; the same call goes on after a kill.

    Args:
        base: the model that the adapters were trained on.
        adapters: of weight 1, or (adapter, weight) each.
        output: a folder that does not exist, is empty, or was begun by the same call.
        dtype: `bf16`, `f16` or `f32` for all floating tensors; the base's own types unless given.
        untie: give the output head a tensor of its own where an adapter changes one side of a tied embedding.
        progress: called with bytes done and bytes in all.

    Raises:
        BpError: `INPUT_WRONG_BASE`, `INPUT_ADAPTER_UNSUPPORTED`, `INPUT_QUANTIZED_BASE`, `INPUT_TIED_EMBEDDING`,
            `INPUT_EMBEDDINGS_MISSING`, `INPUT_PATH_EXISTS`, `INPUT_NOT_FINITE`, `RUNTIME_OVERFLOW`, `RUNTIME_DISK_FULL`, `STATE_RESUME_MISMATCH`.

    Example:
        >>> bake("base", [Adapter.load("adapter")], "merged").survival.coefficient  # doctest: +SKIP
        0.9993
    """
    started = time.perf_counter()
    s = build(BakeSettings, {"dtype": dtype, "untie": untie}, command="bp-merge bake")
    untie = s.untie
    with _opened(base) as model:
        kind = target(s.dtype)
        source = Baked(model, adapters, untie=untie)
        hashes = [adapter_sha256(a) for a, _ in source.adapters]
        identity = _identity(model, source, hashes, kind, untie)
        out = Output(Path(output), identity, [model.path, *_paths(source)])
        plan = _shards(source, kind)
        reused = write_shards(out, plan, progress)
        places = {n: s.file for s in plan for n in _names(source, s.file)}
        weights = sum(_nbytes(source, n, kind) for n in source.names)
        write_index(out.path, model, places, weights)
        copy_text_files(model, [a.path for a, _ in source.adapters], out.path, source.config, kind)
        by_tensor = {n: np.array(s) for w in out.done.values() for n, s in w.sums.items()}
        survivals = {n: Survival.of(by_tensor[n]) for n in source.names if n in by_tensor}
        overall = Survival.of(sum(by_tensor.values(), np.zeros(4)))
        out.finish(MANIFEST, _manifest(model, source, hashes, kind, out, survivals, overall))
        return BakeResult(
            output=out.path,
            files={n: w.sha256 for n, w in out.done.items()},
            dtype=kind,
            tensors=len(source.names),
            touched=len(source.touched),
            survival=overall,
            by_tensor=survivals,
            notes=source.notes,
            warnings=warnings_of(overall, kind or _common(source)),
            reused=reused,
            nbytes=sum(s.nbytes for s in plan),
            seconds=round(time.perf_counter() - started, 3),
            peak_rss_mb=peak_rss_mb(),
        )


def plan_bake(
    base: Checkpoint | str | os.PathLike[str],
    adapters: Sequence[Adapter | tuple[Adapter, float]],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = BakeSettings.dtype,
    untie: bool = BakeSettings.untie,
) -> BakePlan:
    """What `bake` with the same arguments would write and need; every check of the inputs is made, nothing is written.

    Raises:
        BpError: as `bake`, except for what only the values show.
    """
    s = build(BakeSettings, {"dtype": dtype, "untie": untie}, command="bp-merge bake")
    untie = s.untie
    with _opened(base) as model:
        kind = target(s.dtype)
        source = Baked(model, adapters, untie=untie)
        hashes = [adapter_sha256(a) for a, _ in source.adapters]
        Output(Path(output), _identity(model, source, hashes, kind, untie), [model.path, *_paths(source)])
        plan = _shards(source, kind)
        size = sum(s.nbytes for s in plan)
        factors = 4 * max(
            (_factor_bytes(e) for e in source.edits.values()), default=0
        )  # the cache holds four
        widest = max((math.prod(source.info(n).shape[1:]) for n in source.names), default=1)
        blocks = 3 * workers() * max(BLOCK, widest) * 4 * 4
        return BakePlan(
            output=Path(output),
            nbytes=size,
            shards={s.file: s.nbytes for s in plan},
            tensors=len(source.names),
            touched=len(source.touched),
            dtype=kind,
            memory_mb=round((factors + blocks) / 1e6 + 60, 1),
            free=check_space(Path(output), size),
            notes=source.notes,
        )


class _opened:  # noqa: N801
    """The checkpoint as given, or opened here and closed at the end."""

    def __init__(self, base: Checkpoint | str | os.PathLike[str]) -> None:
        self.mine = not isinstance(base, Checkpoint)
        self.model = base if isinstance(base, Checkpoint) else Checkpoint.open(base)

    def __enter__(self) -> Checkpoint:
        return self.model

    def __exit__(self, *_: object) -> None:
        if self.mine:
            self.model.close()


def _paths(source: Baked) -> list[Path]:
    return [Path(p) for p in (getattr(a, "path", None) for a, _ in source.adapters) if p]


def _factor_bytes(edit: Edit) -> int:
    return sum(b.nbytes + a.nbytes for b, a, _ in (factor() for factor in edit.factors))


def _identity(model: Checkpoint, source: Baked, hashes: Sequence[str], kind: str | None, untie: bool) -> str:
    content = [(h, w) for h, (_, w) in zip(hashes, source.adapters, strict=True)]
    return identity_of("bake", fingerprint(model), content, kind, untie, versions())


def adapter_sha256(adapter: Adapter) -> str:
    """SHA-256 over the factors, scales and names of an adapter's modules, and its configuration."""
    digest = hashlib.sha256(json.dumps(adapter.config, sort_keys=True, default=str).encode())
    for name, values in sorted([*adapter.full.items(), *adapter.tokens.items()]):
        digest.update(f"{name} {values.dtype} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    for name in sorted(adapter.modules):
        module = adapter.modules[name]
        for field in dataclasses.fields(module):
            value = getattr(module, field.name)
            digest.update(f"{name} {field.name} ".encode())
            if isinstance(value, np.ndarray):
                digest.update(f"{value.dtype} {value.shape} ".encode())
                digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
            else:
                digest.update(repr(value).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of what computes the bytes."""
    return {name: importlib.metadata.version(name) for name in ("bp-merge", "numpy", "ml-dtypes")}


def _names(source: Baked, file: str) -> list[str]:
    """Tensors of a file in the order of their data, an added head at the end."""
    infos = sorted(source.base.shards[file].values(), key=lambda i: (i.offset, i.nbytes))
    added = [n for n in source.edits if n not in source.base and source.info(n).file.name == file]
    return [i.name for i in infos] + added


def _dtype(info: TensorInfo, kind: str | None) -> str:
    return kind if kind and info.dtype in FLOATS else info.dtype


def _nbytes(source: Baked, name: str, kind: str | None) -> int:
    info = source.info(name)
    return layout([(name, _dtype(info, kind), info.shape)]).sizes[0]


def _common(source: Baked) -> str:
    sizes: dict[str, int] = {}
    for name in source.touched:
        info = source.info(name)
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda k: sizes[k], default="F32")


def _shards(source: Baked, kind: str | None) -> list[Shard]:
    return [_shard(source, file, kind) for file in source.base.shards]


def _shard(source: Baked, file: str, kind: str | None) -> Shard:
    base, names = source.base, _names(source, file)
    infos = {n: source.info(n) for n in names}
    if all(
        n in base and _dtype(i, kind) == i.dtype and i.shape == base.info(n).shape for n, i in infos.items()
    ):
        first = min((i.offset for i in infos.values()), default=0)
        path = (base.path if base.path.is_dir() else base.path.parent) / file
        header = bytes(base.copy_of(path, 0, first or path.stat().st_size))  # as it is, spaces and all
    else:
        if kind:  # the format wants wider types first
            names.sort(key=lambda n: -_nbytes(source, n, kind) // max(1, math.prod(infos[n].shape)))
        plan = layout([(n, _dtype(infos[n], kind), infos[n].shape) for n in names], base.metadata[file])
        header = len(plan.header).to_bytes(8, "little") + plan.header
    size = len(header) + sum(_nbytes(source, n, kind) for n in names)

    def tasks(_: cf.Executor) -> Iterator[Task]:
        for name in names:
            info = infos[name]
            if name in source.edits:
                yield from _edited(source, name, _dtype(info, kind))
            elif _dtype(info, kind) == info.dtype:
                for begin in range(0, info.nbytes, COPY):
                    count = min(COPY, info.nbytes - begin)
                    yield functools.partial(_copy, base, info, begin, count)
            else:
                count = math.prod(info.shape)
                for begin in range(0, count, BLOCK):
                    yield functools.partial(
                        _convert, base, name, begin, min(begin + BLOCK, count), kind or ""
                    )

    return Shard(file, size, header, tasks)


def _copy(base: Checkpoint, info: TensorInfo, begin: int, count: int) -> Block:
    return Block(base.copy_of(info.file, info.offset + begin, count))


def _convert(base: Checkpoint, name: str, begin: int, end: int, kind: str) -> Block:
    values = to_f32(base.elements(name, begin, end))
    return Block(rounded(values, kind, name))


def _edited(source: Baked, name: str, kind: str) -> Iterator[Task]:
    info = source.info(name)
    count, step = info.shape[0] if info.shape else 1, source.tile_rows(name)
    for low in range(0, count, step):
        yield functools.partial(_tile, source, name, low, min(low + step, count), kind)


def _tile(source: Baked, name: str, low: int, high: int, kind: str) -> Block:
    before, after = (x.reshape(-1) for x in source.tile(name, low, high))
    written = rounded(after, kind, name)
    delta = after - before
    back = to_f32(written)
    kept = source.info(name).dtype == kind or kind == "F32"
    arrived = back - before
    moved = arrived if kept else back - to_f32(from_f32(before, kind))
    sums = [delta @ delta, moved @ moved, arrived @ delta, before @ before]
    return Block(written, name, np.array(sums, np.float64))


def _manifest(
    model: Checkpoint,
    source: Baked,
    hashes: Sequence[str],
    kind: str | None,
    out: Output,
    survivals: Mapping[str, Survival],
    overall: Survival,
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "bake",
        "base": {n: sum(i.nbytes for i in t.values()) for n, t in model.shards.items()},
        "adapters": [{"sha256": h, "weight": w} for h, (_, w) in zip(hashes, source.adapters, strict=True)],
        "dtype": kind,
        "versions": versions(),
        "files": {n: {"bytes": w.nbytes, "sha256": w.sha256} for n, w in out.done.items()},
        "notes": list(source.notes),
        "survival": dataclasses.asdict(overall),
        "tensors": {n: dataclasses.asdict(s) for n, s in survivals.items()},
    }
