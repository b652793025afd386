"""SIGINT and SIGTERM: the first saves and stops after this step, a second one stops now."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from bp_core.training.watching.orders import Order, Stop
from bp_core.training.watching.recorder import Say


class Signals:
    """Catches both signals while entered, in the main thread; elsewhere they stay whose they are.

    Args:
        say: told of the first signal.
    """

    def __init__(self, say: Say) -> None:
        self.say, self.count = say, 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt
        self.say("STOP_REQUESTED", "interrupted: saving and stopping after this step; once more stops now")

    def look(self, step: int) -> Order:
        """Stop once a signal came."""
        return Stop("interrupted", "SIGNAL") if self.count else None
