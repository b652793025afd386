"""Merge adapters into one: the engine around the methods.

- One module at a time, in f64, from factors that are read when needed; the result is f32 with scale 1.
- The rank of the result is what the method's result needs, unless a rank or an energy fraction is asked for; what that
  discards is reported.
- Adapters must have the same modules and shapes; `missing="zero"` takes an absent module as ΔW = 0.
- What is no low-rank change (DoRA, biases, whole tensors, token rows) is refused, except whole tensors and token rows
  that are equal in all adapters.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.adapter import Adapter, LoraModule
from bp_merge.common import BpError
from bp_merge.lowrank import LowRank, compress
from bp_merge.method import Context, get_method
from bp_merge.moments import Moments


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
        parameters: as used.
        weights: as used, or None for the method's default.
        seconds: wall time.
        output_path: the folder, where one was written.
    """

    adapter: Adapter
    method: str
    modules: int
    rank: int
    discarded_energy: float
    by_module: dict[str, dict[str, float]]
    parameters: dict[str, Any]
    weights: list[float] | None
    seconds: float
    output_path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without the tensors."""
        from bp_merge.shards import peak_rss_mb

        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "adapter"}
        found["output_path"] = str(self.output_path) if self.output_path else None
        return {**found, "peak_rss_mb": peak_rss_mb()}


def merge(
    adapters: Sequence[Adapter],
    method: str = "task_arithmetic",
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    energy: float | None = None,
    seed: int = 0,
    moments: Sequence[Moments | str | os.PathLike[str]] = (),
    missing: str = "error",
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
    chosen = get_method(method)
    checked = chosen.check(parameters)
    n = len(adapters)
    _check_arguments(n, weights, rank, energy, missing)
    if output is not None and Path(output).exists():
        raise BpError("INPUT_PATH_EXISTS", f"{output} exists", f"--output {output}-2")
    opened = [m if isinstance(m, Moments) else Moments.load(m) for m in moments]
    if chosen.needs_moments and len(opened) != n:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"{method} needs one file of input moments per adapter: {n}, not {len(opened)}",
            "--moments A.safetensors --moments B.safetensors",
        )
    full, tokens = _common_tensors(adapters)
    names = _names(adapters, missing)
    used = list(weights) if weights is not None else [chosen.default_weight(n)] * n
    made: dict[str, LoraModule] = {}
    rows: dict[str, dict[str, float]] = {}
    kept_sum = lost_sum = 0.0
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), name)
        modules = [a.modules.get(name) for a in adapters]
        sample = _check_shapes(name, modules)
        parts = [LowRank.of(m.b, m.a, m.scale) if m else LowRank.zeros(sample.shape) for m in modules]
        context = Context(
            module=name,
            keys=_keys(parts) if n else (),
            seed=seed,
            given=weights is not None,
            rank=rank,
            moments=tuple(m.read(name, sample.shape[1]) for m in opened) if chosen.needs_moments else (),
        )
        result = chosen.function(parts, used, context, **checked)
        small, lost = compress(result, rank, energy)
        size = float((np.linalg.norm(small.b, axis=0) ** 2 * np.linalg.norm(small.a, axis=1) ** 2).sum())
        if not (np.isfinite(small.b).all() and np.isfinite(small.a).all()):
            raise BpError("INPUT_NOT_FINITE", f"the merge of {name} is not finite", "use smaller weights")
        kept_sum += size
        lost_sum += size * lost / (1 - lost) if lost < 1 else 0.0
        rows[name] = {"rank": small.rank, "discarded_energy": lost, "norm": size**0.5}
        made[name] = LoraModule(
            name, small.a.astype(np.float32), small.b.astype(np.float32), 1.0, sample.embedding
        )
    adapter = Adapter(made, _config(adapters, names), full, tokens, adapters[0].path)
    written = adapter.save(output) if output is not None else None
    return MergeResult(
        adapter,
        method,
        len(names),
        max((m.rank for m in made.values()), default=0),
        lost_sum / (kept_sum + lost_sum) if kept_sum + lost_sum else 0.0,
        rows,
        checked,
        list(weights) if weights is not None else None,
        time.perf_counter() - started,
        written,
    )


def _check_arguments(
    n: int, weights: Sequence[float] | None, rank: int | None, energy: float | None, missing: str
) -> None:
    def wrong(message: str, hint: str) -> BpError:
        return BpError("INPUT_VALIDATION_FAILED", message, hint)

    if not n:
        raise wrong("there is no adapter to merge", "bp-merge merge ADAPTER ADAPTER --output DIR")
    if weights is not None and (len(weights) != n or not np.isfinite(list(weights)).all()):
        raise wrong(
            f"{n} adapters need {n} finite weights, not {list(weights)}", f"--weights {','.join(['1'] * n)}"
        )
    if rank is not None and energy is not None:
        raise wrong("give a rank or an energy fraction, not both", "--rank 64")
    if rank is not None and rank < 1:
        raise wrong(f"rank must be at least 1, not {rank}", "--rank 64")
    if energy is not None and not 0 < energy <= 1:
        raise wrong(f"energy must be within (0, 1], not {energy}", "--energy 0.99")
    if missing not in ("error", "zero"):
        raise wrong(f"missing must be error or zero, not {missing!r}", "--missing zero")


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


def _check_shapes(name: str, modules: Sequence[LoraModule | None]) -> LoraModule:
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
    return present[0]


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
    """A name per change that depends on ΔW alone (its first entries, rounded), so that masks follow the adapter."""
    found = []
    for part in parts:
        probe = np.array(
            [part.b[0] @ part.a[:, 0], part.b[-1] @ part.a[:, -1], (part.b.sum(0) @ part.a.sum(1))]
        )
        text = ",".join(f"{x:.4e}" for x in probe)
        found.append(hashlib.sha256(text.encode()).hexdigest()[:16])
    return tuple(found)


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
