"""Tokens and seconds of training; evaluating, saving and pausing are not training time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Pace:
    """Counts over the whole run, its earlier parts included.

    Args:
        clock: a steady clock in seconds.

    Attributes:
        tokens: trained on.
        seconds: of training.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.tokens, self.seconds = 0, 0.0
        self._began = clock()

    def begin(self) -> None:
        """A step begins now."""
        self._began = self.clock()

    def step(self, tokens: int) -> float:
        """A step of so many tokens is done; tokens per second, 0 where no time passed."""
        now = self.clock()
        elapsed, self._began = now - self._began, now
        self.tokens += tokens
        self.seconds += elapsed
        return tokens / elapsed if elapsed else 0.0

    def memory(self) -> dict[str, Any]:
        """JSON-able, for `restore`."""
        return {"tokens": self.tokens, "seconds": self.seconds}

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on where `memory` was taken."""
        self.tokens, self.seconds = memory.get("tokens", 0), memory.get("seconds", 0.0)
