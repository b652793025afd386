"""Merge full checkpoints block by block: memory is a few blocks, whatever the models' size.

- Arithmetic in f32 on what is stored, rounded once to the base's number type. Differences τᵢ = xᵢ − base.
- Architecture, vocabulary, tensor names and shapes are compared before anything is written; nothing is cropped or skipped.
- Thresholds and angles are per tensor, by a pass before the one that writes. Integer buffers are the base's.
- The folder is laid out like the base's, atomic and resumable (`bp_merge.shards`); `merge.json` comes last.

| method | result | arXiv |
|---|---|---|
| linear | Σ wᵢxᵢ, wᵢ = 1/n unless given | 2203.05482 |
| slerp | on the arc from the first model to the second, `t` of the way, per tensor | – |
| task_arithmetic | base + Σ wᵢτᵢ, wᵢ = min(1, 1.2/√n) unless given | 2212.04089 |
| ties | trim to `density` by magnitude, elect signs, mean of agreeing; × `scale` | 2306.01708 |
| dare_linear, dare_ties | keep with probability `density`, divide by it; then sum or elect | 2311.03099 |
| della | as dare_ties with probabilities by rank within a row, `epsilon` wide | 2406.11617 |
| breadcrumbs | drop the largest `gamma` and the smallest, keep `density`; Σ wᵢτᵢ × `scale` | 2312.06795 |
"""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.bake import COPY, rounded, versions
from bp_merge.casts import FLOATS, target, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import SCHEMA_VERSION, BpError
from bp_merge.kernels import della_keep, drop, elect, key_of, thresholds
from bp_merge.shards import (
    BLOCK,
    Block,
    Output,
    Progress,
    Shard,
    Task,
    fingerprint,
    identity_of,
    peak_rss_mb,
    write_index,
    write_shards,
)
from bp_merge.stfile import TensorInfo, layout
from bp_merge.textfiles import copy_text_files

METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "breadcrumbs")
MANIFEST = "merge.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a method reads."""

    method: str
    weights: tuple[float, ...]
    density: float
    scale: float
    epsilon: float
    gamma: float
    t: float
    seed: int


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


def merge_models(
    base: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    method: str = "task_arithmetic",
    weights: Sequence[float] | None = None,
    density: float | None = None,
    scale: float = 1.0,
    epsilon: float = 0.1,
    gamma: float = 0.01,
    t: float = 0.5,
    seed: int = 0,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> ModelsResult:
    """Merge two or more fine-tuned checkpoints of one base; the same call goes on after a kill.

    Args:
        base: the model that they were tuned from; it gives layout, tokenizer and configuration.
        models: two or more folders.
        output: a folder that does not exist, is empty, or was begun by the same call.
        method: one of `METHODS`.
        weights: one for each model, as given; the method's default otherwise.
        density: part of the elements that is kept, in (0, 1]; .2 for ties, .5 for dare and della, .9 for breadcrumbs.
        scale: factor on the merged difference.
        epsilon: width of DELLA's probabilities; density ± epsilon/2 must lie in (0, 1].
        gamma: part of the elements that breadcrumbs drops at the top.
        t: slerp's place between the first model (0) and the second (1).
        seed: of the masks.
        dtype: `bf16`, `f16` or `f32`; the base's own types unless given.
        progress: called with bytes done and bytes in all.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`, `INPUT_MODELS_MISMATCH`, `INPUT_PATH_EXISTS`, `INPUT_NOT_FINITE`,
            `RUNTIME_OVERFLOW`, `RUNTIME_DISK_FULL`, `STATE_RESUME_MISMATCH`.
    """
    started = time.perf_counter()
    settings = _settings(method, len(models), weights, density, scale, epsilon, gamma, t, seed)
    kind = target(dtype)
    opened: list[Checkpoint] = []
    try:
        for path in (base, *models):
            opened.append(Checkpoint.open(path))
        root, rest = opened[0], opened[1:]
        for other in rest:
            check_compatible(root, other)
        identity = identity_of(
            "models", [fingerprint(m) for m in opened], dataclasses.asdict(settings), kind, versions()
        )
        out = Output(Path(output), identity, [m.path for m in opened])
        shards = [_shard(root, rest, settings, file, kind) for file in root.shards]
        reused = write_shards(out, shards, progress)
        places = {n: f for f, tensors in root.shards.items() for n in tensors}
        write_index(out.path, root, places, sum(_nbytes(root.info(n), kind) for n in root.names))
        copy_text_files(root, [], out.path, root.config, kind)
        files = {n: w.sha256 for n, w in out.done.items()}
        out.finish(
            MANIFEST,
            {
                "schema_version": SCHEMA_VERSION,
                "kind": "models",
                "settings": dataclasses.asdict(settings),
                "models": [m.path.name for m in opened],
                "dtype": kind,
                "versions": versions(),
                "files": {n: {"bytes": w.nbytes, "sha256": w.sha256} for n, w in out.done.items()},
            },
        )
        return ModelsResult(
            output=out.path,
            method=method,
            weights=settings.weights,
            tensors=len(root.names),
            files=files,
            reused=reused,
            nbytes=sum(s.nbytes for s in shards),
            seconds=round(time.perf_counter() - started, 3),
            peak_rss_mb=peak_rss_mb(),
        )
    finally:
        for model in opened:
            model.close()


def _settings(
    method: str,
    count: int,
    weights: Sequence[float] | None,
    density: float | None,
    scale: float,
    epsilon: float,
    gamma: float,
    t: float,
    seed: int,
) -> Settings:
    def refuse(why: str) -> BpError:
        return BpError("INPUT_VALIDATION_FAILED", why, "bp-merge models --help")

    if method not in METHODS:
        raise refuse(f"{method!r} is no method for models; there are {', '.join(METHODS)}")
    if count < 2 or (method == "slerp" and count != 2):
        raise refuse(
            f"{method} needs {'exactly' if method == 'slerp' else 'at least'} two models, not {count}"
        )
    if method == "slerp" and weights is not None:
        raise refuse("slerp has no weights; t is the place between the two models")
    usual = {"linear": 1 / count, "task_arithmetic": min(1.0, 1.2 / math.sqrt(count))}.get(method, 1.0)
    if method in ("dare_linear", "breadcrumbs"):
        usual = min(1.0, 1.2 / math.sqrt(count))
    given = tuple(float(w) for w in weights) if weights is not None else (usual,) * count
    if len(given) != count or not all(map(math.isfinite, given)):
        raise refuse(f"{len(given)} weights for {count} models (each a finite number)")
    kept = {"ties": 0.2, "breadcrumbs": 0.9}.get(method, 0.5) if density is None else density
    if not 0 < kept <= 1:
        raise refuse(f"density must be in (0, 1], not {kept}")
    if method == "della" and not (epsilon >= 0 and kept - epsilon / 2 > 0 and kept + epsilon / 2 <= 1):
        raise refuse(f"density {kept} ± epsilon/2 = {epsilon / 2} leaves (0, 1]")
    if method == "breadcrumbs" and not (gamma >= 0 and gamma + kept <= 1):
        raise refuse(f"gamma {gamma} and density {kept} make more than 1")
    if not (0 <= t <= 1 and math.isfinite(scale)):
        raise refuse("t must be in [0, 1] and scale finite")
    return Settings(method, given, kept, scale, epsilon, gamma, t, seed)


def check_compatible(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a model that is not of the base's architecture, vocabulary, tensors and shapes.

    Raises:
        BpError: `INPUT_MODELS_MISMATCH` naming the first difference; `INPUT_QUANTIZED_BASE`.
    """

    def differ(what: str) -> BpError:
        return BpError(
            "INPUT_MODELS_MISMATCH",
            f"{other.path} and {base.path} differ in {what}",
            "merge models that were tuned from the same base",
        )

    for model in (base, other):
        if model.config.get("quantization_config"):
            raise BpError(
                "INPUT_QUANTIZED_BASE", f"{model.path} is quantised", "name the 16-bit version of this model"
            )
    for key in (
        "model_type",
        "architectures",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "tie_word_embeddings",
    ):
        ours, theirs = base.config.get(key), other.config.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            raise differ(f"{key}: {theirs} and {ours}")
    words = [_vocabulary(m) for m in (base, other)]
    if None not in words and words[0] != words[1]:
        raise differ("their tokenizers: a token has another id, or only one of them knows it")
    missing = sorted(set(base.names) ^ set(other.names))
    if missing:
        raise differ(f"the tensor {missing[0]}, which only one of them has")
    for name in base.names:
        ours, theirs = base.info(name), other.info(name)
        if ours.shape != theirs.shape:
            raise differ(f"the shape of {name}: {list(theirs.shape)} and {list(ours.shape)}")
        if (ours.dtype in FLOATS) != (theirs.dtype in FLOATS):
            raise differ(f"the number type of {name}: {theirs.dtype} and {ours.dtype}")


def _vocabulary(model: Checkpoint) -> str | None:
    """A hash of token → id, or None where there is no tokenizer.json."""
    file = (model.path if model.path.is_dir() else model.path.parent) / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text("utf-8"))
        words = found.get("model", {}).get("vocab", {})
        added = {t["content"]: t["id"] for t in found.get("added_tokens") or ()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BpError(
            "INPUT_CHECKPOINT_INVALID", f"{file}: {error}", "download the tokenizer again"
        ) from None
    return hashlib.sha256(json.dumps([words, added], sort_keys=True).encode()).hexdigest()


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
    weights, scale = [np.float32(w) for w in s.weights], np.float32(s.scale)
    if s.method == "linear":
        return lambda w, xs, low: _sum(xs, weights)
    if s.method == "slerp":
        a, b = _arc(models, info, spans, s.t, pool)
        return lambda w, xs, low: a * xs[0] + b * xs[1]
    if s.method == "task_arithmetic":
        return lambda w, xs, low: w + scale * _sum([x - w for x in xs], weights)
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
            merged = elect(parts, s.weights) if s.method == "ties" else _sum(parts, weights)
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
        return w + scale * (_sum(parts, weights) if s.method == "dare_linear" else elect(parts, s.weights))

    return dropped


def _sum(parts: Sequence[np.ndarray], weights: Sequence[np.float32]) -> np.ndarray:
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += part * weight
    return total


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
