"""Loss and gradient norm of a step, judged before the weights move: a stop leaves the last good state."""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_core.safety.guards import LossGuard, LossState
from bp_core.training.watching.recorder import Say


class Losses:
    """Obeys the loss guard.

    Args:
        guard: its limits.
        say: gets what the guard finds.
        run_id: named in the error.

    Attributes:
        last: (loss, gradient norm) of the newest step.
    """

    def __init__(self, guard: LossGuard, say: Say, run_id: str) -> None:
        self.guard, self.say, self.run_id = guard, say, run_id
        self.last: tuple[float, float] = (0.0, 0.0)
        self._state = LossState()

    def judge(self, step: int, loss: float, grad_norm: float) -> None:
        """Take a step's loss and norm.

        Raises:
            BpError: `RUNTIME_LOSS_NOT_FINITE`, `RUNTIME_LOSS_SPIKE`, `RUNTIME_GRADIENT_ZERO`.
        """
        self.last = (loss, grad_norm)
        self._state, verdict = self.guard.observe(self._state, step, loss, grad_norm)
        if verdict.action == "go":
            return
        self.say(verdict.code, verdict.message, **verdict.details)
        if verdict.action == "stop":
            error = verdict.error(
                "add --lr 1e-4 to the command  (a lower learning rate), or look at the rows of that step"
            )
            error.details["run_id"] = self.run_id
            raise error

    def memory(self) -> dict[str, Any]:
        """JSON-able, for `restore`."""
        return {"loss_state": dataclasses.asdict(self._state), "last": self.last}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on where `memory` was taken."""
        self._state = LossState(**memory["loss_state"])
        self.last = tuple(memory.get("last", self.last))
