"""The best evaluation so far, and whether it is long ago."""

from __future__ import annotations

from typing import Any


class Best:
    """Keeps the evaluations of a run: its held-out losses, and the values by which one is the best.

    Args:
        patience: evaluations without a better value after which to stop; 0 never.
        by: name of the value that decides.
        higher: whether more of it is better.

    Attributes:
        losses: held-out losses by step.
        values: the deciding values by step.
        best: (value, step) of the best evaluation.

    Example:
        With patience 2, the losses 3, 2, 2, 2.5 at steps 0 to 3 end the run at step 3: two after the best, at step 1.
    """

    def __init__(self, patience: int = 0, *, by: str = "heldout_loss", higher: bool = False) -> None:
        self.patience, self.by, self.higher = patience, by, higher
        self.losses: dict[int, float] = {}
        self.values: dict[int, float] = self.losses if by == "heldout_loss" else {}
        self.best: tuple[float, int] | None = None
        self._since = 0

    def observe(self, step: int, value: float) -> bool:
        """Take a deciding value; True where patience has run out."""
        self.values[step] = value
        if self.best is None or (value > self.best[0] if self.higher else value < self.best[0]):
            self.best, self._since = (value, step), 0
            return False
        self._since += 1
        return bool(self.patience) and self._since >= self.patience

    def is_at(self, step: int) -> bool:
        """Whether the best evaluation is that of `step`."""
        return self.best is not None and self.best[1] == step

    def steps(self, count: int) -> list[int]:
        """Steps of the `count` best evaluations after training began, of equal ones the earliest."""
        sign = -1 if self.higher else 1
        return [
            step for _, step in sorted((sign * v, step) for step, v in self.values.items() if step)[:count]
        ]

    def memory(self) -> dict[str, Any]:
        """JSON-able, for `restore`."""
        losses, values = ({str(step): v for step, v in d.items()} for d in (self.losses, self.values))
        return {"losses": losses, "best_values": values, "best": self.best, "since_best": self._since}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on where `memory` was taken."""
        self.losses.update({int(step): loss for step, loss in memory["losses"].items()})
        told = memory.get("best_values", memory["losses"])
        self.values.update({int(step): value for step, value in told.items()})
        self.best = tuple(memory["best"]) if memory["best"] else None
        self._since = memory["since_best"]
