"""What a checkpoint holds of a trainer, written as a transaction and read back to the last bit; no pickle.

- Mixed into a `transformers.Trainer` before it: the optimizer, the schedule, mixed precision's scale and every random
  generator are saved here and restored where transformers' loop asks for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bp_core.models.weights import Weights
from bp_core.training import checkpoint
from bp_core.training.state import load_state, random_state, save_state, set_random_state


class SavedState:
    """Saves and loads the state of a trainer.

    Attributes:
        model: that is trained.
        weights: what of it is saved and loaded.
        micro: examples per forward pass.
    """

    model: Any
    weights: Weights
    micro: int
    state: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any

    def save_checkpoint(self, root: Path, **facts: Any) -> checkpoint.Checkpoint:
        """Write everything that the next step depends on, as a transaction."""

        def fill(folder: Path) -> None:
            self.weights.save(self.model, folder)
            optimizer = getattr(
                self.optimizer, "optimizer", self.optimizer
            )  # accelerate's wrapper holds the real one
            save_state(folder, "optimizer", optimizer.state_dict())
            scaler = self.accelerator.scaler
            save_state(
                folder,
                "trainer",
                {
                    "scheduler": self.lr_scheduler.state_dict(),
                    "random": random_state(),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                    "micro": self.micro,
                },
            )
            self.state.save_to_json(str(folder / "trainer_state.json"))

        return checkpoint.write(root, self.state.global_step, fill, **facts)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.weights.load(self.model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        optimizer.load_state_dict(load_state(Path(checkpoint), "optimizer"))
        state = load_state(Path(checkpoint), "trainer")
        self.lr_scheduler.load_state_dict(state["scheduler"])
        self.micro = state["micro"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_state(Path(checkpoint), "trainer")["random"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(load_state(Path(checkpoint), "trainer")["scaler"])
