"""Merge full checkpoints block by block: memory is a few blocks, whatever the models' size.

- Arithmetic in f32 on what is stored, rounded once to the base's number type. Differences τᵢ = xᵢ − base.
- Architecture, vocabulary, tensor names and shapes are compared before anything is written; nothing is cropped or skipped.
- Thresholds and angles are per tensor, by a pass before the one that writes. Integer buffers are the base's.
- The folder is laid out like the base's, atomic and resumable (`bp_merge.shards`); `merge.json` comes last.
- Methods, their parameters, bounds and defaults are those of the adapter methods of the same name (`bp_merge.methods`);
  `space` is not theirs: models are merged element by element.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.bake import COPY, plan_dict, versions
from bp_merge.casts import FLOATS, target, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import SCHEMA_VERSION, BpError, build
from bp_merge.compatible import check_compatible
from bp_merge.kernels import della_keep, drop, elect, key_of, thresholds, weighted_sum
from bp_merge.method import get_method
from bp_merge.methods.breadcrumbs import check_tails
from bp_merge.methods.della import check_chances
from bp_merge.methods.slerp import place
from bp_merge.methods.task_arithmetic import factor_of
from bp_merge.settings import ModelsSettings
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
from bp_merge.survival import rounded
from bp_merge.textfiles import copy_text_files

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "breadcrumbs")
MANIFEST = "merge.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a method reads, resolved: weights one for each model, and the method's own parameters."""

    method: str
    weights: tuple[float, ...]
    seed: int
    density: float = 1.0
    scale: float = 1.0
    epsilon: float = 0.0
    gamma: float = 0.0
    t: float = 0.5


@dataclasses.dataclass(frozen=True)
class ModelsResult:
    """What `merge_models` did: output folder, settings, file hashes, sizes, wall time and memory."""

    output: Path
    method: str
    weights: Sequence[float]
    tensors: int
    files: dict[str, str]
    reused: Sequence[str]
    nbytes: int
    seconds: float
    peak_rss_mb: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        found = dataclasses.asdict(self)
        return {**found, "output_path": str(found.pop("output"))}


@dataclasses.dataclass(frozen=True)
class ModelsPlan:
    """What `merge_models` would write and need: bytes of weights, tensors, an estimate of memory, free bytes."""

    output: Path
    method: str
    weights: Sequence[float]
    tensors: int
    nbytes: int
    memory_mb: float
    free: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return plan_dict(self)


def merge_models(
    base: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    method: str = ModelsSettings.method,
    weights: Sequence[float] | None = ModelsSettings.weights,
    seed: int = ModelsSettings.seed,
    dtype: str | None = ModelsSettings.dtype,
    progress: Progress | None = None,
    **parameters: Any,
) -> ModelsResult:
    """Merge two or more fine-tuned checkpoints of one base; the same call goes on after a kill.

    Args:
        base: the model that they were tuned from; it gives layout, tokenizer and configuration.
        models: two or more folders.
        output: a folder that does not exist, is empty, or was begun by the same call.
        method: one of `METHODS`.
        weights: one for each model, as given; the method's default otherwise.
        seed: of the masks.
        dtype: `bf16`, `f16` or `f32`; the base's own types unless given.
        progress: called with bytes done and bytes in all.
        parameters: the method's own (density, scale, epsilon, gamma, t).

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`, `INPUT_MODELS_MISMATCH`, `INPUT_PATH_EXISTS`, `INPUT_NOT_FINITE`,
            `RUNTIME_OVERFLOW`, `RUNTIME_DISK_FULL`, `STATE_RESUME_MISMATCH`.
    """
    started = time.perf_counter()
    with _job(base, models, output, method, weights, seed, dtype, parameters) as job:
        out, root, settings = job.out, job.base, job.settings
        reused = write_shards(out, job.shards, progress)
        places = {n: f for f, tensors in root.shards.items() for n in tensors}
        write_index(out.path, root, places, sum(_nbytes(root.info(n), job.kind) for n in root.names))
        copy_text_files(root, [], out.path, root.config, job.kind)
        out.finish(
            MANIFEST,
            {
                "schema_version": SCHEMA_VERSION,
                "kind": "models",
                "settings": dataclasses.asdict(settings),
                "models": [m.path.name for m in (root, *job.models)],
                "dtype": job.kind,
                "versions": versions(),
                "files": {n: {"bytes": w.nbytes, "sha256": w.sha256} for n, w in out.done.items()},
            },
        )
        return ModelsResult(
            output=out.path,
            method=settings.method,
            weights=settings.weights,
            tensors=len(root.names),
            files={n: w.sha256 for n, w in out.done.items()},
            reused=reused,
            nbytes=sum(s.nbytes for s in job.shards),
            seconds=round(time.perf_counter() - started, 3),
            peak_rss_mb=peak_rss_mb(),
        )


def plan_models(
    base: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    method: str = ModelsSettings.method,
    weights: Sequence[float] | None = ModelsSettings.weights,
    seed: int = ModelsSettings.seed,
    dtype: str | None = ModelsSettings.dtype,
    **parameters: Any,
) -> ModelsPlan:
    """What `merge_models` with the same arguments would write and need; every check is made, nothing is written.

    Raises:
        BpError: as `merge_models`, except for what only the values show.
    """
    with _job(base, models, output, method, weights, seed, dtype, parameters) as job:
        size = sum(s.nbytes for s in job.shards)
        blocks = 3 * workers() * BLOCK * 4 * (len(job.models) + 4)
        return ModelsPlan(
            output=job.out.path,
            method=job.settings.method,
            weights=job.settings.weights,
            tensors=len(job.base.names),
            nbytes=size,
            memory_mb=round(blocks / 1e6 + 60, 1),
            free=check_space(job.out.path, size),
        )


@dataclasses.dataclass(frozen=True)
class _Job:
    """Checkpoints that are open and fit, checked settings, and the files to be written."""

    base: Checkpoint
    models: Sequence[Checkpoint]
    settings: Settings
    kind: str | None
    out: Output
    shards: Sequence[Shard]


@contextlib.contextmanager
def _job(
    base: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    method: str,
    weights: Sequence[float] | None,
    seed: int,
    dtype: str | None,
    parameters: Mapping[str, Any],
) -> Iterator[_Job]:
    given = {"method": method, "weights": weights, "seed": seed, "dtype": dtype}
    s = build(ModelsSettings, given, command="bp-merge models")
    settings = _settings(s, len(models), parameters)
    kind = target(s.dtype)
    with contextlib.ExitStack() as stack:
        root, *rest = (stack.enter_context(Checkpoint.open(path)) for path in (base, *models))
        for other in rest:
            check_compatible(root, other)
        stamps = [fingerprint(m) for m in (root, *rest)]
        identity = identity_of("models", stamps, dataclasses.asdict(settings), kind, versions())
        out = Output(Path(output), identity, [m.path for m in (root, *rest)])
        shards = [_shard(root, rest, settings, file, kind) for file in root.shards]
        yield _Job(root, rest, settings, kind, out, shards)


def _settings(asked: ModelsSettings, count: int, parameters: Mapping[str, Any]) -> Settings:
    method, weights = asked.method, asked.weights

    def refuse(why: str, hint: str = "bp-merge models --help") -> BpError:
        return BpError("INPUT_VALIDATION_FAILED", why, hint)

    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, 1)
        raise refuse(
            f"{method!r} is no method for models; there are {', '.join(METHODS)}",
            f"use --method {near[0] if near else 'task_arithmetic'}",
        )
    if count < 2 or (method == "slerp" and count != 2):
        raise refuse(
            f"{method} needs {'exactly' if method == 'slerp' else 'at least'} two models, not {count}"
        )
    if "space" in parameters:
        raise refuse("space is for adapters; models are merged element by element", "leave space out")
    made = get_method(method)
    values = {n: p.default for n, p in made.parameters.items() if n != "space"} | made.check(parameters)
    given = weights if weights is not None else (made.default_weight(count),) * count
    if len(given) != count:
        raise refuse(
            f"{count} models need {count} finite weights, not {list(given)}",
            f"use --weights {','.join(['1'] * count)}",
        )
    if "scale" in values:
        values["scale"] = factor_of(values["scale"], weights is not None, count)
    if "gamma" in values:
        check_tails(values["density"], values["gamma"])
    if "epsilon" in values:
        check_chances(values["density"], values["epsilon"])
    if method == "slerp":
        values["t"] = place(values["t"], given)
    return Settings(method, given, asked.seed, **values)


def _nbytes(info: TensorInfo, kind: str | None) -> int:
    return layout([(info.name, kind if kind and info.dtype in FLOATS else info.dtype, info.shape)]).sizes[0]


def _shard(base: Checkpoint, models: Sequence[Checkpoint], s: Settings, file: str, kind: str | None) -> Shard:
    infos = sorted(base.shards[file].values(), key=lambda i: (i.offset, i.nbytes))
    if kind:  # the format wants wider types first
        infos.sort(key=lambda i: -_nbytes(i, kind) // max(1, math.prod(i.shape)))
    types = [kind if kind and i.dtype in FLOATS else i.dtype for i in infos]
    plan = layout([(i.name, d, i.shape) for i, d in zip(infos, types, strict=True)], base.metadata[file])

    def tasks(pool: cf.Executor) -> Iterator[Task]:
        for info, to in zip(infos, types, strict=True):
            if info.dtype in FLOATS:
                yield from _merged(base, models, s, info, to, pool)
            else:
                for begin in range(0, info.nbytes, COPY):
                    count = min(COPY, info.nbytes - begin)
                    yield functools.partial(_copied, base, info, begin, count)

    return Shard(file, plan.total, len(plan.header).to_bytes(8, "little") + plan.header, tasks)


def _copied(base: Checkpoint, info: TensorInfo, begin: int, count: int) -> Block:
    return Block(base.copy_of(info.file, info.offset + begin, count))


Merge = Callable[
    [np.ndarray, list[np.ndarray], int], np.ndarray
]  # base, models, first element → merged, all flat f32


def _merged(
    base: Checkpoint, models: Sequence[Checkpoint], s: Settings, info: TensorInfo, to: str, pool: cf.Executor
) -> Iterator[Task]:
    size = math.prod(info.shape)
    columns = info.shape[-1] if info.shape else 1
    step = max(1, BLOCK // max(columns, 1)) * max(columns, 1)  # whole rows, which DELLA ranks within
    spans = [(low, min(low + step, size)) for low in range(0, size, step)]
    merge = _prepare(base, models, s, info, spans, pool)

    def task(low: int, high: int) -> Block:
        w = to_f32(base.elements(info.name, low, high))
        xs = [to_f32(m.elements(info.name, low, high)) for m in models]
        return Block(rounded(merge(w, xs, low), to, info.name))

    return (functools.partial(task, low, high) for low, high in spans)


def _prepare(
    base: Checkpoint,
    models: Sequence[Checkpoint],
    s: Settings,
    info: TensorInfo,
    spans: Sequence[tuple[int, int]],
    pool: cf.Executor,
) -> Merge:
    """The function of a block, after the passes over the whole tensor that it needs."""
    weights, scale = s.weights, np.float32(s.scale)
    if s.method == "linear":
        return lambda w, xs, low: weighted_sum(xs, weights)
    if s.method == "slerp":
        a, b = _arc(models, info, spans, s.t, pool)
        return lambda w, xs, low: a * xs[0] + b * xs[1]
    if s.method == "task_arithmetic":
        return lambda w, xs, low: w + scale * weighted_sum([x - w for x in xs], weights)
    size = math.prod(info.shape)
    if s.method in ("ties", "breadcrumbs") and size:
        top = int(s.gamma * size) if s.method == "breadcrumbs" else 0
        keep = max(1, round(s.density * size))
        ranks = [min(size, top + keep) - 1, *([top] if top else [])]
        limits = list(pool.map(lambda m: _limits(base, m, info, spans, ranks), models))

        def trimmed(w: np.ndarray, xs: list[np.ndarray], low: int) -> np.ndarray:
            parts = []
            for x, limit in zip(xs, limits, strict=True):
                d = x - w
                size_of = np.abs(d)
                kept = size_of >= np.float32(limit[0])
                if len(limit) > 1:
                    kept &= size_of <= np.float32(limit[1])
                parts.append(np.where(kept, d, np.float32(0)))
            merged = elect(parts, s.weights) if s.method == "ties" else weighted_sum(parts, weights)
            return w + scale * merged

        return trimmed
    keys = [key_of(s.seed, "mask", _sample(m, info), info.name) for m in models]
    columns = max(1, info.shape[-1] if info.shape else 1)

    def dropped(w: np.ndarray, xs: list[np.ndarray], low: int) -> np.ndarray:
        parts = []
        for x, key in zip(xs, keys, strict=True):
            d = x - w
            keep: Any = s.density
            if s.method == "della":
                keep = della_keep(d.reshape(-1, columns), s.density, s.epsilon).reshape(-1)
            parts.append(drop(d, keep, key, low))
        return w + scale * (
            weighted_sum(parts, weights) if s.method == "dare_linear" else elect(parts, s.weights)
        )

    return dropped


def _limits(
    base: Checkpoint,
    model: Checkpoint,
    info: TensorInfo,
    spans: Sequence[tuple[int, int]],
    ranks: Sequence[int],
) -> list[float]:
    def blocks() -> Iterator[np.ndarray]:
        for low, high in spans:
            yield to_f32(model.elements(info.name, low, high)) - to_f32(base.elements(info.name, low, high))

    return thresholds(blocks, ranks)


def _arc(
    models: Sequence[Checkpoint],
    info: TensorInfo,
    spans: Sequence[tuple[int, int]],
    t: float,
    pool: cf.Executor,
) -> tuple[np.float32, np.float32]:
    """The two factors of slerp: sin((1−t)θ)/sin θ and sin(tθ)/sin θ; (1−t, t) for vectors that are parallel or zero."""

    def products(span: tuple[int, int]) -> np.ndarray:
        x, y = (to_f32(m.elements(info.name, *span)) for m in models)
        return np.array([x @ y, x @ x, y @ y], np.float64)

    dot, xx, yy = sum(pool.map(products, spans), np.zeros(3))
    cosine = dot / math.sqrt(xx * yy) if xx * yy > 0 else 1.0
    if cosine < -0.9995:
        raise BpError(
            "INPUT_MODELS_MISMATCH",
            f"{info.name} points the opposite way in the two models, so that no arc between them is shortest",
            "merge them with --method linear or task_arithmetic",
        )
    if not math.isfinite(cosine) or cosine > 0.9995:
        return np.float32(1 - t), np.float32(t)
    theta = math.acos(cosine)
    return np.float32(math.sin((1 - t) * theta) / math.sin(theta)), np.float32(
        math.sin(t * theta) / math.sin(theta)
    )


def _sample(model: Checkpoint, info: TensorInfo) -> str:
    """What tells two models' tensors apart without reading them: a hash of their first and last elements."""
    size = math.prod(info.shape)
    ends = [
        model.elements(info.name, 0, min(size, 4096)),
        model.elements(info.name, max(0, size - 4096), size),
    ]
    return hashlib.sha256(b"".join(e.tobytes() for e in ends)).hexdigest()
