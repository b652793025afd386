"""A run as the further processes of a training on several cards see it: rank 0 alone records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run


class Unrecorded(Run):
    """Takes what a `Run` takes and keeps nothing.

    Args:
        store: that holds the run.
        run_id: as rank 0 recorded it.
    """

    def __init__(self, store: RunStore, run_id: str) -> None:
        self.store, self.run_id, self.path = store, run_id, store.output / run_id
        self.step, self.status, self.problem, self.dropped = 0, "running", None, 0

    def event(self, code: str, message: str, **details: Any) -> None:
        """Nothing."""

    def artifact(self, kind: str, path: Any, **meta: Any) -> None:
        """Nothing."""

    def control(self) -> None:
        """No request is for this process."""

    def finish(
        self, status: str = "completed", result: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> None:
        """Nothing."""

    def flush(self) -> bool:
        """Nothing waits."""
        return True

    def _add(self, kind: str, write: Callable[[Any], object]) -> None:
        """Nothing is written."""
