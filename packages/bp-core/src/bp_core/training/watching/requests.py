"""What other processes ask of a run through its store: pause, resume, stop, stop and save."""

from __future__ import annotations

from collections.abc import Callable

from bp_core.training.watching.orders import Hold, Order, Stop


class Requests:
    """Obeys the newest request.

    Args:
        take: the newest request not yet obeyed, once; None where there is none (`Run.control` fits).
    """

    def __init__(self, take: Callable[[], str | None]) -> None:
        self.take, self.paused = take, False

    def look(self, step: int) -> Order:
        """Stop, hold while paused, or go on."""
        action = self.take()
        if action in ("stop", "stop-and-save"):
            return Stop("stopped", "CONTROL_STOP", save=action == "stop-and-save")
        self.paused = action == "pause" or (self.paused and action != "resume")
        return Hold() if self.paused else None
