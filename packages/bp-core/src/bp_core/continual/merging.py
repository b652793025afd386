"""The adapters of a session's accepted runs as one: by SLAO, or by any method of bp-merge.

- A pure function of the accepted adapters in their order: nothing but their folders has to survive a crash, and a
  session merged anew by another method needs no training.
- The first run is its own merge, whatever the strategy. SLAO folds one adapter at a time; the other methods see all.
- Drift is the cosine of what a run changed, against what was merged before: ⟨ΔW_i − ΔW_start, ΔW_M⟩, over all modules.
  Of the whole ΔW_i a warm start would say little: most of it was there before the run.

Sources: SLAO arXiv:2512.23017; the methods' own are in `bp_merge.methods`.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bp_merge import Adapter, LowRank, SlaoState, get_method, merge, slao
from bp_merge.common import BpError
from bp_merge.lowrank import inner, norm, stack

from bp_core.continual import whole
from bp_core.continual.strategy import masks, method_of, replaced
from bp_core.settings.groups.session import SessionSettings
from bp_core.settings.knobs import Settings

FILES = ("adapter_model.safetensors", "adapter_config.json")
MOMENTS = "moments.safetensors"
RANKS = 4  # times a run's rank that a merge may have, unless told otherwise
SLAO = {"qiao_mahdavi": "paper", "slao": "paper", "slao_delta": "delta"}
STARTS = ("default", "gaussian", "orthogonal")  # initialisations that leave the base as it is
PAIRS = ("slerp",)  # methods of two adapters


def check(settings: Settings) -> None:
    """Refuse a merge that cannot be.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown strategy, `CONFIG_CONFLICT` for one that does not fit.
    """
    if settings.model.mode == "full":
        whole.check(settings)
        return
    if settings.lora.init_lora_weights not in STARTS:
        raise BpError(
            "CONFIG_CONFLICT",
            f"{settings.lora.init_lora_weights} starts from a base, or ranks, of its own in every run, which do not add up",
            f"use --init-lora-weights {STARTS[0]}",
        )
    session = settings.session
    if session.merge_mode == "simple":
        return
    name = method_of(session)
    if name not in SLAO:
        try:
            get_method(name)
        except BpError as error:
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"{error.message}, nor is it slao_delta, qiao_mahdavi or dare",
                "see the methods: bp-merge methods",
            ) from None
    if name in PAIRS:
        raise BpError(
            "CONFIG_CONFLICT",
            f"{name} merges two adapters, not a session",
            "use --merge-strategy running_mean",
        )
    if settings.lora.use_dora:
        raise BpError(
            "CONFIG_CONFLICT",
            "adapters with DoRA are no low-rank change and cannot be merged",
            "add --merge-mode simple to the command, or leave --use-dora out",
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a session's result would be with one more run.

    Args:
        folders: of the runs' adapters, in order.
        facts: what the merge did.
        state: of SLAO, where it folds.
        folder: of the result where that is a run's own adapter.
        arguments: of `bp_merge.merge` otherwise.
    """

    folders: tuple[Path, ...]
    facts: dict[str, Any]
    state: SlaoState | None = None
    folder: Path | None = None
    arguments: dict[str, Any] | None = None

    def write(self, output: Path) -> dict[str, Any]:
        """Write the merged adapter as `output`, whole or not at all, in place of what stood there; what was lost."""
        if self.state is not None:
            self.state.merged.save(output, force=True)
            return self.facts
        if self.folder is not None:
            _copy(self.folder, output)
            return self.facts
        done = merge([Adapter.load(f) for f in self.folders], **(self.arguments or {}))
        done.adapter.save(output, force=True)
        return {**self.facts, "rank": done.rank, "discarded_energy": done.discarded_energy}


def _copy(adapter: Path, output: Path) -> None:
    """An adapter's two files as a folder that appears whole."""
    with replaced(output) as partial:
        partial.mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(adapter / name, partial / name)


class Merging:
    """Merges the runs of a session as they come.

    Args:
        session: how.
        seed: of random masks where the session names none.
    """

    def __init__(self, session: SessionSettings, seed: int) -> None:
        self.session, self.seed = session, seed
        self.folders: tuple[Path, ...] = ()
        self.state: SlaoState | None = None

    @property
    def variant(self) -> str | None:
        """SLAO's, where the strategy is SLAO."""
        return SLAO.get(self.session.merge_strategy) if self.session.merge_mode == "slao" else None

    @property
    def needs_moments(self) -> bool:
        """Whether the strategy reads stored input moments."""
        s = self.session
        return s.merge_mode == "slao" and self.variant is None and get_method(method_of(s)).needs_moments

    def candidate(self, folder: Path) -> Candidate:
        """The merge with the adapter of one more run; nothing changes before `accept`.

        Raises:
            BpError: of bp-merge where the adapters do not fit.
        """
        folders = (*self.folders, folder)
        if self.session.merge_mode == "simple":
            return Candidate(folders, {"method": "simple"}, folder=folder)
        if self.variant is not None:
            step = slao.step(self.state, Adapter.load(folder), variant=self.variant)
            facts = {"method": f"slao_{self.variant}", "weight": step.weight}
            return Candidate(folders, {**facts, "discarded_energy": step.discarded_energy}, state=step.state)
        name = method_of(self.session)
        if len(folders) == 1:
            return Candidate(folders, {"method": name}, folder=folder)
        return Candidate(folders, {"method": name}, arguments=self._arguments(name, folders))

    def _arguments(self, name: str, folders: Sequence[Path]) -> dict[str, Any]:
        rank = max(m.rank for m in Adapter.load(folders[0]).modules.values())
        found = {
            "method": name,
            "rank": self.session.merge_rank or RANKS * rank,
            **masks(self.session, self.seed),
        }
        if get_method(name).needs_moments:
            found["moments"] = [f.parent / MOMENTS for f in folders]
        return found

    def accept(self, candidate: Any) -> None:
        """Take what `candidate` gave as what was merged so far."""
        self.folders, self.state = candidate.folders, candidate.state

    @property
    def folds(self) -> bool:
        """Whether a warm run begins from the merge, not from the run before."""
        return self.state is not None

    def write_start(self, folder: Path) -> None:
        """Write the adapter that the next run of a fold begins from."""
        if self.state is None:
            raise ValueError("nothing was folded yet")
        self.state.start().save(folder, force=True)


def drift(merged: Path, run: Path, start: Path | None) -> float:
    """Cosine of what a run changed (from `start`, or from nothing) and the merged change, over all modules; 0 where one is 0.

    Example:
        A run that takes back half of what was merged, and does nothing else, has −1.
    """
    before, new = Adapter.load(merged), Adapter.load(run)
    old = Adapter.load(start) if start is not None else None
    dot = size_new = size_old = 0.0
    for name, module in new.modules.items():
        change = LowRank.of(module.b, module.a, module.scale)
        if old is not None:
            first = old.modules[name]
            change = stack([change, LowRank.of(first.b, first.a, first.scale)], [1.0, -1.0])
        m = before.modules[name]
        whole = LowRank.of(m.b, m.a, m.scale)
        dot += inner(change, whole)
        size_new, size_old = size_new + norm(change) ** 2, size_old + norm(whole) ** 2
    return dot / math.sqrt(size_new * size_old) if size_new and size_old else 0.0


def merging_of(settings: Settings, base: Path) -> Merging | whole.WholeMerging:
    """How the runs of a session are merged."""
    if settings.model.mode == "full":
        return whole.WholeMerging(settings.session, settings.training.seed, base)
    return Merging(settings.session, settings.training.seed)


def deliver(candidate: Candidate | whole.WholeCandidate, target: Path) -> dict[str, Any]:
    """Write a merge as a directory that can be used: the merged weights beside tokenizer and template of its last run."""
    if isinstance(candidate, whole.WholeCandidate):
        return candidate.write(target)
    with replaced(target) as staging:
        facts = candidate.write(staging)
        for file in candidate.folders[-1].iterdir():
            if file.is_file() and not (staging / file.name).exists():
                shutil.copyfile(file, staging / file.name)
    return facts


def by_name(session: SessionSettings, name: str) -> SessionSettings:
    """The same session with another strategy, `simple` among them."""
    if name == "simple":
        return dataclasses.replace(session, merge_mode="simple")
    return dataclasses.replace(session, merge_mode="slao", merge_strategy=name)
