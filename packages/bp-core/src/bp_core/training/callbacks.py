"""What a user's code may hear of a run: started, a step, an evaluation, a checkpoint, ended.

Loads neither torch nor transformers, so that a command line or a test can subclass `Callback` for nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """One optimizer step as callbacks see it."""

    run_id: str
    step: int
    steps: int
    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    tokens_per_second: float
    heldout_loss: float | None = None


class Callback:
    """Base of callbacks; override what is of interest. Called in the training process, between steps."""

    def on_start(self, run_id: str, steps: int) -> None:
        """Training begins."""

    def on_step(self, info: StepInfo) -> None:
        """An optimizer step is done."""

    def on_evaluate(self, step: int, heldout_loss: float) -> None:
        """The held-out loss was measured."""

    def on_save(self, step: int, path: Path) -> None:
        """A checkpoint is complete."""

    def on_end(self, run_id: str, status: str) -> None:
        """Training ended."""
