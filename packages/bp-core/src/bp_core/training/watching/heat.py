"""The card's heat: wait while it cools, save and stop where it does not."""

from __future__ import annotations

from bp_core.safety.monitor import Monitor
from bp_core.training.watching.orders import Hold, Order, Stop


class Heat:
    """Obeys the monitor of a card.

    Args:
        monitor: one without a sensor always says go.
        resume: the command that goes on with the run.
    """

    def __init__(self, monitor: Monitor, resume: str) -> None:
        self.monitor, self.resume = monitor, resume

    def look(self, step: int) -> Order:
        """What the monitor's guard decided."""
        action = self.monitor.action
        if action == "stop":
            error = self.monitor.verdict.error(f"let the card cool, then: {self.resume}")
            return Stop("failed", error.code, error=error)
        return Hold() if action == "pause" else None
