"""The models of a session's accepted runs as one, where each run trained the whole model; streamed, no torch.

- As with adapters, a merge is a function of the stored runs in their order. SLAO's average is taken of the weights
  themselves, merged ← merged + (run − merged)/√i: of a whole change there are no factors to turn, so that the paper's
  variant and `slao_delta` are one. `running_mean` is the same with 1/i.
- A fold is a weighted mean of all runs, and is computed as one: rounded once, from nothing but the stored runs.
- A warm run begins from the merge, or, where a method weighs all runs at once, from the run before.

Sources: SLAO arXiv:2512.23017; the methods' own are in `bp_merge.methods`.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bp_merge.casts import FLOATS, to_f32
from bp_merge.checkpoint import Checkpoint
from bp_merge.common import BpError
from bp_merge.method import method_names
from bp_merge.models import METHODS, merge_models

from bp_core.continual.strategy import masks, method_of, replaced
from bp_core.settings.groups.session import SessionSettings
from bp_core.settings.knobs import Settings

BLOCK = 2**22  # values of a tensor that are read at a time
FOLDED: dict[str, Callable[[int], float]] = {  # strategy → share of the newest of i runs
    **dict.fromkeys(("qiao_mahdavi", "slao", "slao_delta"), lambda i: 1 / math.sqrt(i)),
    "running_mean": lambda i: 1 / i,
}
STRATEGIES = (*FOLDED, *(m for m in METHODS if m != "slerp"))


@dataclasses.dataclass(frozen=True)
class WholeCandidate:
    """What a session's model would be with one more run.

    Args:
        folders: of the runs' models, in order.
        facts: what the merge does.
        base: the base model.
        arguments: of `merge_models`; None where the result is the newest run's own model.
    """

    folders: tuple[Path, ...]
    facts: dict[str, Any]
    base: Path
    arguments: dict[str, Any] | None = None

    def write(self, output: Path) -> dict[str, Any]:
        """Write the merged model as `output`, whole or not at all, in place of what stood there; what it did."""
        newest = self.folders[-1]
        with replaced(output) as partial:
            if self.arguments is None:
                shutil.copytree(newest, partial)
                return self.facts
            merge_models(self.base, output=partial, **self.arguments)
            for file in newest.iterdir():  # its tokenizer and template are those that were trained with
                if file.is_file() and not (file.name == "config.json" or ".safetensors" in file.name):
                    shutil.copyfile(file, partial / file.name)
        return self.facts


class WholeMerging:
    """Merges the whole models of a session as they come; used as `Merging` is.

    Args:
        session: how.
        seed: of random masks where the session names none.
        base: the base model.
    """

    needs_moments = False

    def __init__(self, session: SessionSettings, seed: int, base: Path) -> None:
        self.session, self.seed, self.base = session, seed, base
        self.folders: tuple[Path, ...] = ()

    def candidate(self, folder: Path) -> WholeCandidate:
        """The merge with the model of one more run; nothing changes before `accept`."""
        folders, s = (*self.folders, folder), self.session
        if s.merge_mode == "simple":
            return WholeCandidate(folders, {"method": "simple"}, self.base)
        name = method_of(s)
        share = FOLDED.get(name)
        facts: dict[str, Any] = {"method": name, **({} if share is None else {"weight": share(len(folders))})}
        if len(folders) == 1:
            return WholeCandidate(folders, facts, self.base)
        arguments = {"models": list(folders), "method": name, **masks(s, self.seed)}
        if share is not None:
            arguments |= {"method": "linear", "weights": coefficients(share, len(folders))}
        return WholeCandidate(folders, facts, self.base, arguments)

    def accept(self, candidate: Any) -> None:
        """Take what `candidate` gave as what was merged so far."""
        self.folders = candidate.folders

    @property
    def folds(self) -> bool:
        """Whether a warm run begins from the merge, not from the run before."""
        return self.session.merge_mode == "slao" and method_of(self.session) in FOLDED


def coefficients(share: Callable[[int], float], runs: int) -> tuple[float, ...]:
    """The weight of each of `runs` models in ((m₁ folded with m₂) folded with m₃) …, where the newest of i gets `share(i)`.

    Example:
        With 1/i, three models have a third each; with 1/√i the newest of two has 0.707, the first 0.293.
    """
    out = [1.0]
    for i in range(2, runs + 1):
        out = [c * (1 - share(i)) for c in out] + [share(i)]
    return tuple(out)


def check(settings: Settings) -> None:
    """Refuse a merge of whole models that cannot be.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for an unknown strategy, `CONFIG_CONFLICT` for one that does not fit.
    """
    session = settings.session
    for name, asked in (("merge_rank", session.merge_rank is not None), ("moments", session.moments)):
        if asked:
            flag = name.replace("_", "-")
            raise BpError(
                "CONFIG_CONFLICT",
                f"--{flag} is of adapters, and --mode full trains none",
                f"leave --{flag} out",
            )
    name = method_of(session)
    if session.merge_mode == "simple" or name in STRATEGIES:
        return
    known = name in method_names()
    raise BpError(
        "CONFIG_CONFLICT" if known else "CONFIG_INVALID_SETTING",
        f"{name} merges {'adapters, not the whole models of a session' if known else 'nothing: there is no such method'}; "
        f"of whole models there are {', '.join(STRATEGIES)}",
        "use --merge-strategy running_mean",
    )


def drift(base: Path, merged: Path, run: Path, start: Path) -> float:
    """Cosine of what a run changed, from `start`, and of the merged change, from `base`, over all weights; 0 where one is 0."""
    dot = size_new = size_old = 0.0
    with (
        Checkpoint.open(base) as a,
        Checkpoint.open(merged) as b,
        Checkpoint.open(run) as c,
        Checkpoint.open(start) as d,
    ):
        for name, low, high in _blocks(a):
            root, whole, new, old = (
                to_f32(m.elements(name, low, high)).astype(np.float64) for m in (a, b, c, d)
            )
            change, before = new - old, whole - root
            dot += float(change @ before)
            size_new, size_old = size_new + float(change @ change), size_old + float(before @ before)
    return dot / math.sqrt(size_new * size_old) if size_new and size_old else 0.0


def _blocks(model: Checkpoint) -> Iterator[tuple[str, int, int]]:
    for name in model.names:
        info = model.info(name)
        if info.dtype in FLOATS:
            size = math.prod(info.shape)
            yield from ((name, low, min(low + BLOCK, size)) for low in range(0, size, BLOCK))
