"""Free disk: told while it gets short, saved and stopped while there is still room to save."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bp_core.safety.guards import DiskGuard
from bp_core.training.watching.orders import Order, Stop
from bp_core.training.watching.recorder import Say

EVERY = 20  # steps between two looks


class Disk:
    """Looks at the disk of a folder every `EVERY` steps.

    Args:
        folder: any on the disk.
        guard: the limit.
        next_save: bytes of the checkpoint that is written next.
        resume: the command that goes on with the run.
        say: gets what the guard finds.
    """

    def __init__(
        self, folder: Path, guard: DiskGuard, *, next_save: Callable[[], float], resume: str, say: Say
    ) -> None:
        self.folder, self.guard, self.next_save = folder, guard, next_save
        self.resume, self.say = resume, say
        self._looked = -1

    def look(self, step: int) -> Order:
        """Stop where the next checkpoint would pass the limit; once a step, however often it is asked."""
        if step % EVERY or step == self._looked:
            return None
        self._looked = step
        verdict = self.guard.observe(shutil.disk_usage(self.folder).free, next_save=self.next_save())
        if verdict.action != "go":
            self.say(verdict.code, verdict.message, **verdict.details)
        if verdict.action != "stop":
            return None
        error = verdict.error(f"make room, then: {self.resume}")
        return Stop("failed", error.code, error=error)
