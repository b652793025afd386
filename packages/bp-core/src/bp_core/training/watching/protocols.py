"""The two sides between a training loop and what looks after it; neither knows the other's class.

- A loop calls a `Watching`: once when the optimizer stands, once before and once after each optimizer step.
- A watch asks a `Watched` for little enough that any `transformers.Trainer` can be one. `before_update` belongs where the
  loop has the gradient norm in hand (`_get_grad_norm`), `after_step` where it would log (`_maybe_log_save_evaluate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from bp_core.training.checkpoint import Checkpoint


class Watched(Protocol):
    """A trainer as its watch sees it."""

    @property
    def state(self) -> Any:
        """Transformers' `TrainerState`: `global_step`, and `stateful_callbacks`, which is saved and restored."""
        ...

    @property
    def control(self) -> Any:
        """Transformers' `TrainerControl`: `should_training_stop` ends the loop after this step."""
        ...

    @property
    def step_tokens(self) -> int:
        """Tokens of the newest step."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the newest step, beside loss and gradient norm."""
        ...

    def save_checkpoint(self, root: Path, **facts: Any) -> Checkpoint:
        """Write everything that the next step depends on into `root`, `facts` into its manifest."""
        ...


class Watching(Protocol):
    """A watch as its trainer sees it."""

    def start(self, trainer: Watched) -> None:
        """The optimizer stands and, on resume, the state is loaded."""
        ...

    def before_update(self, step: int, loss: float, grad_norm: float) -> None:
        """Judge a step before it reaches the weights; raises to keep them."""
        ...

    def after_step(self, trainer: Watched, learning_rate: float) -> None:
        """Everything that happens between two optimizer steps."""
        ...

    def shrunk(self, step: int, before: int, after: int) -> None:
        """The micro-batch was halved."""
        ...

    def save_now(self, trainer: Watched) -> Path:
        """Write a checkpoint of the current step; returns its folder."""
        ...
