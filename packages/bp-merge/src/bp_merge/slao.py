"""SLAO, merge before forget: adapters of a sequence of tasks in one (arXiv:2512.23017).

- `paper` is as published. Task 1 is an ordinary LoRA. Before task i ≥ 2, A starts as the orthonormal basis
  (Q·sign diag R)ᵀ of the QR of the previous fine-tuned Aᵀ, B as the previous fine-tuned B (not the merged one).
  After it A_merge = A_ft, B_merge += λ(i)·(B_ft − B_merge), λ(i) = 1/√i.
- `delta` is gauge-free: ΔW_M ← (1−λ)·ΔW_M + λ·ΔW_i by stacked factors, cut to rank r; its start keeps the function:
  A⁰ = Qᵀ, B⁰ = B·Rᵀ.
- sign(0) is +1, so that a rank-deficient A loses no row.
- A state is immutable: `step` returns a new one after a finite check; files appear whole or not at all.
- The gate compares ΔW_i with ΔW_M: where the cosine is lower than `min_cosine` the task is left out («branch»).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bp_merge.adapter import Adapter
from bp_merge.common import BpError, build
from bp_merge.lora_module import LoraModule
from bp_merge.lowrank import LowRank, compress, inner, norm, stack
from bp_merge.settings import VARIANTS, SlaoSettings
from bp_merge.stfile import Reader, read_header, read_json, write_file, write_text, writing

Schedule = str | float | Callable[[int], float]


def schedule(kind: Schedule, i: int) -> float:
    """λ(i) of the i-th merged task: `sqrt` 1/√i, `linear` 1/i, `log` 1/(1+ln i), a constant, or a function.

    Example:
        sqrt: λ(1) = 1, λ(4) = 0.5.
    """
    if callable(kind):
        value = float(kind(i)) if i > 1 else 1.0
    elif kind == "sqrt":
        value = 1 / math.sqrt(i)
    elif kind == "linear":
        value = 1 / i
    elif kind == "log":
        value = 1 / (1 + math.log(i))
    else:
        try:
            value = float(kind)
        except ValueError:
            raise BpError(
                "INPUT_VALIDATION_FAILED",
                f"{kind!r} is no schedule",
                "use --schedule sqrt, linear, log or a number",
            ) from None
    if not 0 <= value <= 1:
        raise BpError(
            "INPUT_VALIDATION_FAILED", f"λ({i}) = {value} is not within [0, 1]", "use --schedule sqrt"
        )
    return value if i > 1 else 1.0


def orthogonal(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A⁰ (r, n) with orthonormal rows, R⁺ (r, r)) where aᵀ = A⁰ᵀ·R⁺, by QR with a diagonal of R⁺ ≥ 0."""
    q, r = np.linalg.qr(a.astype(np.float64).T)
    sign = np.where(np.diag(r) < 0, -1.0, 1.0)
    return (q * sign).T, sign[:, None] * r


@dataclasses.dataclass(frozen=True, eq=False)
class SlaoState:
    """What SLAO keeps between tasks.

    Attributes:
        finetuned: the last accepted fine-tuned adapter.
        merged: the merged adapter: what is delivered.
        count: merged tasks.
        variant: `paper` or `delta`.
    """

    finetuned: Adapter
    merged: Adapter
    count: int
    variant: str = "paper"

    def start(self) -> Adapter:
        """The adapter that the next task's training starts from."""
        made = {}
        for name, m in self.finetuned.modules.items():
            a, r = orthogonal(m.a)
            b = m.b if self.variant == "paper" else (m.b.astype(np.float64) @ r.T).astype(np.float32)
            made[name] = dataclasses.replace(m, a=a.astype(np.float32), b=b)
        return dataclasses.replace(self.finetuned, modules=made)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state folder: `merged/` (a PEFT adapter), `state-<i>.safetensors`, then `slao.json` as the commit.

        Raises:
            BpError: `INPUT_PATH_EXISTS` where the folder holds anything else.
        """
        folder = Path(path)
        _check_folder(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, np.ndarray] = {}
        scales: dict[str, float] = {}
        for kind in ("finetuned", "merged"):
            for name, m in getattr(self, kind).modules.items():
                tensors[f"{kind}.{name}.a"], tensors[f"{kind}.{name}.b"] = m.a, m.b
                scales[f"{kind}.{name}"] = m.scale
        weights = f"state-{self.count}.safetensors"
        write_file(folder / weights, tensors)
        self.merged.save(folder / "merged", force=True)
        document = {
            "schema_version": 1,
            "weights": weights,
            "count": self.count,
            "variant": self.variant,
            "scales": scales,
            "config": self.merged.config,
        }
        write_text(folder / "slao.json", json.dumps(document, indent=2, sort_keys=True, default=str) + "\n")
        for old in folder.glob("state-*.safetensors"):
            if old.name != weights:
                old.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SlaoState:
        """Read a state folder; every bit as saved.

        Raises:
            BpError: `STATE_INVALID`, `INPUT_FILE_INVALID`.
        """
        folder = Path(path)
        try:
            document = read_json(folder / "slao.json")
            weights = folder / Path(document["weights"]).name
            infos, _ = read_header(weights)
            reader = Reader(weights)
            try:
                read = {name: reader.rows(info) for name, info in infos.items()}
            finally:
                reader.close()
            kinds: dict[str, dict[str, LoraModule]] = {"finetuned": {}, "merged": {}}
            for key, scale in document["scales"].items():
                kind, name = key.split(".", 1)
                kinds[kind][name] = LoraModule(name, read[f"{key}.a"], read[f"{key}.b"], float(scale))
            finetuned, merged = (Adapter(kinds[k], dict(document["config"])) for k in ("finetuned", "merged"))
            if document["variant"] not in VARIANTS or not merged.modules:
                raise ValueError("unknown variant, or empty")
            return cls(finetuned, merged, int(document["count"]), document["variant"])
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise BpError(
                "STATE_INVALID",
                f"{folder} holds no usable SLAO state ({error})",
                f"rm -r {folder} and start again",
            ) from None


@dataclasses.dataclass(frozen=True)
class SlaoStep:
    """What a step did.

    Attributes:
        state: the new state; the old one where the gate branched.
        accepted: whether the task was merged.
        weight: λ(i).
        cosine: of ΔW_i and ΔW_M over all modules, or None for the first task.
        by_module: module → cosine.
        discarded_energy: by the refactor of `delta`.
    """

    state: SlaoState
    accepted: bool
    weight: float
    cosine: float | None
    by_module: Mapping[str, float]
    discarded_energy: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without tensors."""
        return {
            "accepted": self.accepted,
            "decision": "accept" if self.accepted else "branch",
            "tasks": self.state.count,
            "variant": self.state.variant,
            "lambda": self.weight,
            "cosine": self.cosine,
            "modules": dict(self.by_module),
            "discarded_energy": self.discarded_energy,
        }


def step(
    state: SlaoState | None,
    finetuned: Adapter,
    *,
    variant: str | None = SlaoSettings.variant,
    weight: Schedule = SlaoSettings.schedule,
    min_cosine: float | None = SlaoSettings.min_cosine,
) -> SlaoStep:
    """Merge a fine-tuned adapter into a state.

    Args:
        state: None for the first task.
        finetuned: the adapter after training on the task.
        variant: of a new state, `paper` unless given; an existing state's own is the only other one that is taken.
        weight: λ schedule.
        min_cosine: the drift gate; None accepts all.

    Raises:
        BpError: `INPUT_ADAPTERS_MISMATCH` where modules, ranks or scales differ from the state's;
            `INPUT_ADAPTER_UNSUPPORTED` for DoRA, biases or whole tensors; `INPUT_NOT_FINITE`; `INPUT_VALIDATION_FAILED`
            for another variant than the state's.
    """
    told = {"variant": variant, "min_cosine": min_cosine}
    told |= {"weight": weight} if isinstance(weight, str) else {}  # else a constant or a function
    s = build(SlaoSettings, told, command="bp-merge slao")
    variant, min_cosine = s.variant, s.min_cosine
    modules = {}
    if finetuned.full or finetuned.tokens or not finetuned.modules:
        raise BpError(
            "INPUT_ADAPTER_UNSUPPORTED",
            "SLAO merges plain LoRA modules only",
            "train without modules_to_save",
        )
    for name, m in finetuned.modules.items():
        if m.magnitude is not None or m.bias is not None:
            raise BpError("INPUT_ADAPTER_UNSUPPORTED", f"{name} has DoRA or a bias", "train plain LoRA")
        if not (np.isfinite(m.a).all() and np.isfinite(m.b).all()):
            raise BpError(
                "INPUT_NOT_FINITE", f"{name} holds NaN or infinite values", "use an earlier checkpoint"
            )
        modules[name] = dataclasses.replace(m, a=m.a.astype(np.float32), b=m.b.astype(np.float32))
    finetuned = dataclasses.replace(finetuned, modules=modules)
    if state is None:
        schedule(weight, 1)
        variant = variant or "paper"
        return SlaoStep(SlaoState(finetuned, finetuned, 1, variant), True, 1.0, None, {})
    if variant not in (None, state.variant):
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"the state was made with the variant {state.variant}, not {variant}",
            f"use --variant {state.variant}, or another folder: --state DIR",
        )
    _check_fit(state, finetuned)
    i = state.count + 1
    lam = schedule(weight, i)
    cosines, dot, square_new, square_old = {}, 0.0, 0.0, 0.0
    merged: dict[str, LoraModule] = {}
    lost = total = 0.0
    for name, m in modules.items():
        old = state.merged.modules[name]
        new_delta, old_delta = LowRank.of(m.b, m.a, m.scale), LowRank.of(old.b, old.a, old.scale)
        product, sizes = inner(new_delta, old_delta), (norm(new_delta), norm(old_delta))
        cosines[name] = product / (sizes[0] * sizes[1]) if all(sizes) else 0.0
        dot, square_new, square_old = dot + product, square_new + sizes[0] ** 2, square_old + sizes[1] ** 2
        if state.variant == "paper":
            b = (old.b.astype(np.float64) + lam * (m.b.astype(np.float64) - old.b)).astype(np.float32)
            merged[name] = dataclasses.replace(m, b=b)
        else:
            both = stack([old_delta, new_delta], [1 - lam, lam])
            small, share = compress(both, m.rank)
            size = norm(both) ** 2
            lost, total = lost + share * size, total + size
            pad = m.rank - small.rank
            merged[name] = dataclasses.replace(
                m,
                a=np.pad(small.a, ((0, pad), (0, 0))).astype(np.float32),
                b=np.pad(small.b / m.scale, ((0, 0), (0, pad))).astype(np.float32),
            )
        if not (np.isfinite(merged[name].a).all() and np.isfinite(merged[name].b).all()):
            raise BpError(
                "INPUT_NOT_FINITE", f"the merge of {name} is not finite", "use an earlier checkpoint"
            )
    whole = math.sqrt(square_new * square_old)
    cosine = dot / whole if whole else 0.0
    if min_cosine is not None and cosine < min_cosine:
        return SlaoStep(state, False, lam, cosine, cosines)
    after = SlaoState(finetuned, dataclasses.replace(finetuned, modules=merged), i, state.variant)
    return SlaoStep(after, True, lam, cosine, cosines, lost / total if total else 0.0)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not a state's: `merged` in it would be replaced."""
    if not folder.exists() or (folder / "slao.json").is_file():
        return
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else {""}
    if any(not n.startswith("state-") and n not in ("merged", ".merged.partial") for n in names) or (
        names and not any(n.startswith("state-") for n in names)
    ):
        raise BpError(
            "INPUT_PATH_EXISTS",
            f"{folder} exists and is no SLAO state",
            f"name another: --state {folder}-state",
        )


def _check_fit(state: SlaoState, finetuned: Adapter) -> None:
    known = state.finetuned.modules
    if known.keys() != finetuned.modules.keys():
        name = sorted(known.keys() ^ finetuned.modules.keys())[0]
        raise BpError(
            "INPUT_ADAPTERS_MISMATCH", f"the state and the adapter differ in {name}", "use the same targets"
        )
    for name, m in finetuned.modules.items():
        old = known[name]
        if (m.a.shape, m.b.shape) != (old.a.shape, old.b.shape) or not math.isclose(
            m.scale, old.scale, rel_tol=1e-6
        ):
            raise BpError(
                "INPUT_ADAPTERS_MISMATCH",
                f"{name}: rank, scale or shape differ from the state's",
                "train every task with the same rank and alpha",
            )
