"""The best evaluation so far, and whether it is long ago."""

from __future__ import annotations

from typing import Any


class Best:
    """Keeps the held-out losses of a run.

    Args:
        patience: evaluations without a better loss after which to stop; 0 never.

    Attributes:
        losses: held-out losses by step.
        best: (held-out loss, step) of the best evaluation.

    Example:
        With patience 2, the losses 3, 2, 2, 2.5 at steps 0 to 3 end the run at step 3: two after the best, at step 1.
    """

    def __init__(self, patience: int = 0) -> None:
        self.patience = patience
        self.losses: dict[int, float] = {}
        self.best: tuple[float, int] | None = None
        self._since = 0

    def observe(self, step: int, loss: float) -> bool:
        """Take an evaluation; True where patience has run out."""
        self.losses[step] = loss
        if self.best is None or loss < self.best[0]:
            self.best, self._since = (loss, step), 0
            return False
        self._since += 1
        return bool(self.patience) and self._since >= self.patience

    def is_at(self, step: int) -> bool:
        """Whether the best evaluation is that of `step`."""
        return self.best is not None and self.best[1] == step

    def steps(self, count: int) -> list[int]:
        """Steps of the `count` best evaluations after training began."""
        return [
            step for _, step in sorted((loss, step) for step, loss in self.losses.items() if step)[:count]
        ]

    def memory(self) -> dict[str, Any]:
        """JSON-able, for `restore`."""
        losses = {str(step): loss for step, loss in self.losses.items()}
        return {"losses": losses, "best": self.best, "since_best": self._since}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on where `memory` was taken."""
        self.losses = {int(step): loss for step, loss in memory["losses"].items()}
        self.best = tuple(memory["best"]) if memory["best"] else None
        self._since = memory["since_best"]
