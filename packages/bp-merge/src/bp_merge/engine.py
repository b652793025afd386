"""Merge adapters into one: the engine around the methods.

- One module at a time, in f64, from factors that are read when needed; the result is f32 with scale 1. Where a folder
  is written, each module goes into it as it is made: memory is a few modules, whatever the adapters' size and count.
- A thread for each core merges a module of its own, with one BLAS thread: the result does not depend on how many.
- The rank of the result is what the method's result needs, unless a rank or an energy fraction is asked for; what that
  discards is reported.
- Adapters must have the same modules and shapes; `missing="zero"` takes an absent module as ΔW = 0.
- What is no low-rank change (DoRA, biases, whole tensors, token rows) is refused, except whole tensors and token rows
  that are equal in all adapters.
"""

from __future__ import annotations

import concurrent.futures as cf
import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bp_merge.adapter import Adapter
from bp_merge.adapter_folder import refuse_experts, write_adapter
from bp_merge.common import BpError, build
from bp_merge.kernels import draws, key_of
from bp_merge.lora_module import LoraModule
from bp_merge.lowrank import LowRank, compress, norm
from bp_merge.method import Context, Method, get_method
from bp_merge.moments import Moments
from bp_merge.settings import MergeSettings
from bp_merge.shards import check_space, ordered, peak_rss_mb, workers
from bp_merge.stfile import read_json

MOST = 1e6  # of a weight: what is meant lies below 10, and squares of larger sums overflow


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """A merged adapter and what was lost.

    Attributes:
        adapter: the result.
        method: its name.
        modules: how many.
        rank: the largest rank of a module.
        discarded_energy: Σ of what compression discarded / Σ of all energy, over all modules.
        by_module: module → {"rank", "discarded_energy", "norm"}.
        parameters: as used, defaults too.
        weights: as used.
        seconds: wall time.
        output_path: the folder, where one was written.
        warnings: what the user should know.
    """

    adapter: Adapter
    method: str
    modules: int
    rank: int
    discarded_energy: float
    by_module: dict[str, dict[str, float]]
    parameters: dict[str, Any]
    weights: list[float]
    seconds: float
    output_path: Path | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the tensors."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "adapter"}
        found["output_path"] = str(self.output_path) if self.output_path else None
        return {**found, "peak_rss_mb": peak_rss_mb()}


def merge(
    adapters: Sequence[Adapter],
    method: str = MergeSettings.method,
    weights: Sequence[float] | None = MergeSettings.weights,
    *,
    rank: int | None = MergeSettings.rank,
    energy: float | None = MergeSettings.energy,
    seed: int = MergeSettings.seed,
    moments: Sequence[Moments | str | os.PathLike[str]] = (),
    missing: str = MergeSettings.missing,
    output: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    **parameters: Any,
) -> MergeResult:
    """Merge adapters of one base model.

    Args:
        adapters: one or more.
        method: a name of `bp_merge.method_names()`.
        weights: one per adapter, used as given; the method's default where None.
        rank: the most rank of the result; None loses nothing.
        energy: instead, the least rank that keeps this fraction of Σσ² in each module.
        seed: of random masks.
        moments: per adapter, for methods that need them.
        missing: "error", or "zero" for modules that an adapter lacks.
        output: a folder to write; it must not exist.
        progress: called with (done, all, module).
        parameters: the method's own.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`, `INPUT_ADAPTERS_MISMATCH`, `INPUT_ADAPTER_UNSUPPORTED`, `INPUT_NOT_FINITE`,
            `INPUT_PATH_EXISTS`.

    Example:
        merge([a, a], "linear").adapter has the ΔW of a.
    """
    started = time.perf_counter()
    job = _prepare(adapters, method, weights, rank, energy, seed, moments, missing, output, parameters)
    rows: dict[str, dict[str, float]] = {}

    def made() -> Iterator[LoraModule]:
        tasks = (functools.partial(_merge_module, job, name) for name in job.names)
        with threadpool_limits(1, user_api="blas"), cf.ThreadPoolExecutor(workers()) as pool:
            for done, (module, row) in enumerate(ordered(tasks, pool, workers())):
                rows[module.name] = row
                if progress:
                    progress(done, len(job.names), module.name)
                yield module

    config, source = _config(adapters, job.names), adapters[0].path
    written = None
    if output is None:
        merged = Adapter({m.name: m for m in made()}, config, job.full, job.tokens, source)
    else:
        written = write_adapter(
            output, job.names, made(), config, full=job.full, tokens=job.tokens, source=source
        )
        merged = Adapter.load(written)
    kept = sum(r["norm"] ** 2 for r in rows.values())
    lost = sum(
        r["norm"] ** 2 * r["discarded_energy"] / (1 - r["discarded_energy"])
        for r in rows.values()
        if r["discarded_energy"] < 1
    )
    return MergeResult(
        merged,
        job.method.name,
        len(rows),
        int(max((r["rank"] for r in rows.values()), default=0)),
        lost / (kept + lost) if kept + lost else 0.0,
        rows,
        {n: p.default for n, p in job.method.parameters.items()} | job.parameters,
        job.weights,
        time.perf_counter() - started,
        written,
        _check_bases(adapters),
    )


def plan_merge(
    adapters: Sequence[Adapter],
    method: str = MergeSettings.method,
    weights: Sequence[float] | None = MergeSettings.weights,
    *,
    rank: int | None = MergeSettings.rank,
    energy: float | None = MergeSettings.energy,
    moments: Sequence[Moments | str | os.PathLike[str]] = (),
    missing: str = MergeSettings.missing,
    output: str | os.PathLike[str] | None = None,
    seed: int = MergeSettings.seed,
    **parameters: Any,
) -> dict[str, Any]:
    """What `merge` with the same arguments needs at most; every check is made, each input read once, nothing written.

    Returns:
        {"method", "output_path", "modules", "rank", "memory_mb", "disk_mb", "free_mb"}.

    Raises:
        BpError: as `merge`.
    """
    job = _prepare(adapters, method, weights, rank, energy, seed, moments, missing, output, parameters)
    largest = disk = top = 0
    for name in job.names:
        found = _modules(job, name)
        m, n = next(x for x in found if x).shape
        total = sum(x.rank if x else 1 for x in found)
        kept = min(total, m, n, job.rank or total)
        top, disk = max(top, kept), disk + (m + n) * kept * 4
        dense = m * n * (len(found) + 3) * 8 if job.parameters.get("space") == "dense" else 0
        largest = max(largest, ((m + n) * total * 8 * 8 + dense) * workers())
    return {
        "method": job.method.name,
        "output_path": str(output) if output is not None else None,
        "modules": len(job.names),
        "rank": top,
        "memory_mb": math.ceil((largest + (0 if output is not None else disk)) / 1e6) + 60,
        "disk_mb": math.ceil(disk / 1e6),
        "free_mb": check_space(Path(output or "."), 0) // 1_000_000,
    }


@dataclasses.dataclass(frozen=True)
class _Job:
    """A merge whose arguments have been checked."""

    adapters: Sequence[Adapter]
    method: Method
    weights: list[float]
    given: bool
    rank: int | None
    energy: float | None
    seed: int
    moments: Sequence[Moments]
    parameters: dict[str, Any]
    names: list[str]
    full: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]


def _prepare(
    adapters: Sequence[Adapter],
    name: str,
    weights: Sequence[float] | None,
    rank: int | None,
    energy: float | None,
    seed: int,
    moments: Sequence[Moments | str | os.PathLike[str]],
    missing: str,
    output: str | os.PathLike[str] | None,
    parameters: dict[str, Any],
) -> _Job:
    given = {
        "method": name,
        "weights": weights,
        "seed": seed,
        "rank": rank,
        "energy": energy,
        "missing": missing,
    }
    given["moments"] = [m for m in moments if not isinstance(m, Moments)]  # those that are paths
    s = build(MergeSettings, given, command="bp-merge merge")
    chosen = get_method(s.method)
    checked = chosen.check(parameters)
    n = len(adapters)
    _check_arguments(n, s)
    if output is not None and Path(output).exists():
        raise BpError("INPUT_PATH_EXISTS", f"{output} exists", f"name another folder: --output {output}-2")
    for adapter in adapters if output is not None else ():
        refuse_experts(adapter.config)
    if moments and not chosen.needs_moments:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{name} reads no input moments",
            "leave them out, or: --method regmean",
        )
    if chosen.needs_moments and len(moments) != n:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{name} needs one file of input moments per adapter: {n}, not {len(moments)}",
            "use --moments A.safetensors --moments B.safetensors",
        )
    _check_bases(adapters)
    full, tokens = _common_tensors(adapters)
    return _Job(
        adapters,
        chosen,
        list(s.weights) if s.weights is not None else [chosen.default_weight(n)] * n,
        s.weights is not None,
        s.rank,
        s.energy,
        s.seed,
        [m if isinstance(m, Moments) else Moments.load(m) for m in moments],
        checked,
        _names(adapters, s.missing),
        full,
        tokens,
    )


def _check_bases(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Refuse adapters that are known to come from different models; tell of bases that only have different names.

    What is known is the configuration's hash in backprop.json: the same weights often lie under two names.

    Raises:
        BpError: `INPUT_ADAPTERS_MISMATCH`.
    """
    hashes: dict[str, Path | None] = {}
    for adapter in adapters:
        file = adapter.path / "backprop.json" if adapter.path else None
        try:
            found = read_json(file)["base_model"]["config_sha256"] if file and file.is_file() else None
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if isinstance(found, str):
            hashes.setdefault(found, adapter.path)
    if len(hashes) > 1:
        one, other = list(hashes.values())[:2]
        raise BpError(
            "INPUT_ADAPTERS_MISMATCH",
            f"{one} and {other} were trained on different models: backprop.json has two configurations",
            f"see the base of each: bp-merge inspect {other}",
        )
    names = dict.fromkeys(str(n) for a in adapters if (n := a.config.get("base_model_name_or_path")))
    if len(names) < 2:
        return ()
    return (
        f"the adapters name different bases ({', '.join(names)}): their sum means something on one model only",
    )


def _modules(job: _Job, name: str) -> list[LoraModule | None]:
    found = [a.modules.get(name) for a in job.adapters]
    _check_shapes(name, found)
    return found


def _merge_module(job: _Job, name: str) -> tuple[LoraModule, dict[str, float]]:
    modules = _modules(job, name)
    sample = next(m for m in modules if m is not None)
    parts = [LowRank.of(m.b, m.a, m.scale) if m else LowRank.zeros(sample.shape) for m in modules]
    context = Context(
        module=name,
        keys=_keys(parts),
        seed=job.seed,
        given=job.given,
        rank=job.rank,
        moments=tuple(m.read(name, sample.shape[1]) for m in job.moments),
    )
    result, before = job.method.apply(parts, job.weights, context, job.parameters)
    small, after = compress(result, job.rank, job.energy)
    if not (np.isfinite(small.b).all() and np.isfinite(small.a).all()):
        raise BpError("INPUT_NOT_FINITE", f"the merge of {name} is not finite", "use smaller weights")
    lost = 1 - (1 - before) * (1 - after)
    row = {"rank": small.rank, "discarded_energy": lost, "norm": norm(small)}
    a, b = small.a.astype(np.float32), small.b.astype(np.float32)
    return LoraModule(name, a, b, 1.0, sample.embedding), row


def _check_arguments(n: int, s: MergeSettings) -> None:
    def wrong(message: str, hint: str) -> BpError:
        return BpError("INPUT_VALIDATION_FAILED", message, hint)

    if not n:
        raise wrong("there is no adapter to merge", "bp-merge merge ADAPTER ADAPTER --output DIR")
    if s.weights is not None and len(s.weights) != n:
        raise wrong(
            f"{n} adapters need {n} finite weights, not {list(s.weights)}",
            f"use --weights {','.join(['1'] * n)}",
        )
    if s.weights is not None and any(abs(w) > MOST for w in s.weights):
        raise wrong(
            f"weights lie within ±{MOST:g}, not {list(s.weights)}", f"use --weights {','.join(['1'] * n)}"
        )
    if s.rank is not None and s.energy is not None:
        raise wrong("give a rank or an energy fraction, not both", "use --rank 64")


def _names(adapters: Sequence[Adapter], missing: str) -> list[str]:
    union = sorted({name for a in adapters for name in a.modules})
    for i, adapter in enumerate(adapters):
        lacking = [name for name in union if name not in adapter.modules]
        if lacking and missing == "error":
            raise BpError(
                "INPUT_ADAPTERS_MISMATCH",
                f"{adapter.path or f'adapter {i}'} lacks {len(lacking)} modules that others have: {lacking[0]}",
                "take absent modules as zero: --missing zero",
                details={"missing": lacking},
            )
    return union


def _check_shapes(name: str, modules: Sequence[LoraModule | None]) -> None:
    present = [m for m in modules if m is not None]
    if len({(m.shape, m.embedding) for m in present}) > 1:
        shapes = ", ".join(str(m.shape) for m in present)
        raise BpError(
            "INPUT_ADAPTERS_MISMATCH",
            f"{name} has different shapes: {shapes}",
            "merge adapters of one base model only",
        )
    for m in present:
        if m.magnitude is not None or m.bias is not None:
            what = "DoRA magnitudes" if m.magnitude is not None else "a bias of B"
            raise BpError(
                "INPUT_ADAPTER_UNSUPPORTED",
                f"{name} has {what}, which no merge of factors can keep",
                "bake it into the base model instead: bp-merge bake BASE ADAPTER --output DIR",
            )


def _common_tensors(adapters: Sequence[Adapter]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    for what in ("full", "tokens"):
        first = getattr(adapters[0], what)
        for other in adapters[1:]:
            mine = getattr(other, what)
            if first.keys() != mine.keys() or any(not np.array_equal(first[k], mine[k]) for k in first):
                name = next(iter({**first, **mine}))
                raise BpError(
                    "INPUT_ADAPTER_UNSUPPORTED",
                    f"{name} was trained whole and differs between the adapters",
                    "merge the baked models instead: bp-merge models BASE MODEL MODEL --output DIR",
                )
    return dict(adapters[0].full), dict(adapters[0].tokens)


def _keys(parts: Sequence[LowRank]) -> tuple[str, ...]:
    """A name per change that follows it in any order: its place when they are sorted by xᵀ·ΔW·y, x and y random signs.

    The factorisation, and rounding, move that number too little to change the order of different changes.
    """
    m, n = parts[0].shape
    signs = np.where(draws(key_of("order"), 0, m + n) & 1, 1.0, -1.0)
    probes = [float((signs[:m] @ p.b) @ (p.a @ signs[m:])) for p in parts]
    places = np.argsort(np.argsort(probes, kind="stable"), kind="stable")
    return tuple(map(str, places))


def _config(adapters: Sequence[Adapter], names: Sequence[str]) -> dict[str, Any]:
    config = dict(adapters[0].config)
    configs = [a.config for a in adapters]
    plain = all(
        isinstance(c.get("target_modules"), list)
        and not c.get("layers_to_transform")
        and not c.get("exclude_modules")
        for c in configs
    )
    if plain:
        config["target_modules"] = sorted({t for c in configs for t in c["target_modules"]})
    else:
        config |= {
            "target_modules": sorted(names),
            "layers_to_transform": None,
            "layers_pattern": None,
            "exclude_modules": None,
        }
    return config
