"""Where a watch writes: the run's record, its trackers, and the user's eyes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bp_core.runs.trackers import Trackers
from bp_core.runs.writer import Run


class Say(Protocol):
    """Tells the user something and keeps it among the run's events."""

    def __call__(self, code: str, message: str, **details: Any) -> None:
        """`code` is one of `bp_core.errors.EVENTS`."""
        ...


class Recorder:
    """Keeps what happens to one run.

    Args:
        run: the record.
        trackers: get every number too, or None.
        tell: shows a line to the user.
    """

    def __init__(
        self, run: Run, trackers: Trackers | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self.run, self.trackers, self.tell = run, trackers, tell

    def values(self, step: int, **values: float) -> None:
        """Keep numbers of a step."""
        self.run.metric(step, **values)
        if self.trackers is not None:
            self.trackers.log(step, values)

    def say(self, code: str, message: str, **details: Any) -> None:
        """Keep an event, which logs it as well, and tell it."""
        self.run.event(code, message, **details)
        self.tell(message)

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return f"backprop resume {self.run.run_id}{self.run.store.flag}"
