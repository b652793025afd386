"""When a checkpoint is written, and which of them stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bp_core.training import checkpoint
from bp_core.training.ranks import ALONE, Ranks
from bp_core.training.watching.best import Best
from bp_core.training.watching.protocols import Watched


class Keeper:
    """Writes checkpoints and applies the retention policy.

    Args:
        root: folder that holds them.
        every: steps between two of them; 0 only at the end.
        each_best: also one at each best evaluation.
        last: newest ones kept.
        best: best ones kept besides.
        max_bytes: size that all together may have.
        ranks: the processes of the training; the first writes.

    Attributes:
        bytes: of the newest one.
    """

    def __init__(
        self,
        root: Path,
        *,
        every: int,
        each_best: bool = False,
        last: int = 2,
        best: int = 1,
        max_bytes: float | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.root, self.every, self.each_best = root, every, each_best
        self.last, self.best, self.max_bytes, self.ranks = last, best, max_bytes, ranks
        self.bytes = 0.0

    def due(self, step: int, best: Best) -> bool:
        """Whether this step is one to save."""
        return bool(self.every and step % self.every == 0) or (self.each_best and best.is_at(step))

    def save(self, trainer: Watched, best: Best, **facts: Any) -> checkpoint.Checkpoint:
        """Write one of the current step, then remove what the policy lets go."""

        def write() -> tuple[str, int, dict[str, Any]]:
            saved = trainer.save_checkpoint(self.root, processes=self.ranks.world, **facts)
            checkpoint.retain(self.root, last=self.last, best=best.steps(self.best), max_bytes=self.max_bytes)
            return str(saved.path), saved.step, saved.manifest

        path, step, manifest = self.ranks.by_first(write)
        saved = checkpoint.Checkpoint(Path(path), step, manifest)
        self.bytes = float(saved.size)
        return saved
