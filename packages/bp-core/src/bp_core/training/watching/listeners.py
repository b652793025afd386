"""A user's callbacks: one that raises is switched off and told; it never ends a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bp_core.training.callbacks import Callback
from bp_core.training.watching.recorder import Say


class Listeners:
    """Calls each callback.

    Args:
        callbacks: of the user.
        say: gets what went wrong.
    """

    def __init__(self, callbacks: Iterable[Callback], say: Say) -> None:
        self.callbacks, self.say = list(callbacks), say

    def call(self, name: str, *args: Any) -> None:
        """Call the method `name` of each callback that still listens."""
        for callback in list(self.callbacks):
            try:
                getattr(callback, name)(*args)
            except Exception as error:  # noqa: BLE001 - a user's callback; told, switched off, and the run goes on
                self.callbacks.remove(callback)
                self.say(
                    "CALLBACK_FAILED",
                    f"{type(callback).__name__}.{name}: {error}; it is switched off",
                    callback=type(callback).__name__,
                )
