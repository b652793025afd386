"""One card, one job at a time: a lease that a dead holder gives back by dying.

- The lease is a lock of the operating system on a file that all output folders of this user share, so that runs of
  several folders queue for the same card with no server and no UI. It is gone when its process is, however it ended.
- Who waits holds a lock on a ticket of their own; the oldest ticket whose holder lives is next. A dead waiter's ticket
  locks nothing and is cleared by whoever meets it.
- Nothing here imports torch: a job may wait for hours in a process of a few megabytes.

    with Lease("cuda-0", run_id="20261121-073455-a1b2c3", output=Path("output")) as lease:
        lease.wait()
        ...  # the card is ours
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from bp_core.support.files import write_json

FOLDER = "BACKPROPAGATE_LEASE_DIR"  # environment name of the folder that holds the leases


def lease_folder(card: str) -> Path:
    """Where the lease of `card` lies: under the user's home, apart for each machine that shares that home."""
    root = Path(os.environ.get(FOLDER) or Path.home() / ".backpropagate" / "leases")
    return root / f"{platform.node() or 'machine'}-{card}"


def holder(card: str) -> dict[str, Any] | None:
    """Who holds the card now: `run_id`, `output`, `pid`, `since`; None where it is free."""
    folder = lease_folder(card)
    if not _locked(folder / "lease.lock"):
        return None
    try:
        return json.loads((folder / "holder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # taken this moment: its holder has not signed yet


class Lease:
    """The right to use one card.

    Args:
        card: `cuda-0`, …, or `cpu`.
        run_id: of the job, told to those who wait.
        output: its output folder, likewise.
    """

    def __init__(self, card: str, *, run_id: str, output: Path) -> None:
        self.card, self.run_id, self.output = card, run_id, output
        self.folder = lease_folder(card)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lease.lock")
        self._ticket: FileLock | None = None
        self._name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(3)}.ticket"

    def take(self) -> bool:
        """Take the card if it is free and nobody waits longer; whether it is ours now."""
        if self._lock.is_locked:
            return True
        if self.ahead():
            return False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        write_json(
            self.folder / "holder.json",
            {
                "run_id": self.run_id,
                "output": str(self.output.absolute()),
                "pid": os.getpid(),
                "since": time.time(),
            },
        )
        self._drop_ticket()
        return True

    def wait(
        self, *, cancelled: Callable[[], bool] = lambda: False, poll: float = 0.5, beat: float = 0.0
    ) -> bool:
        """Queue for the card until it is ours, or `cancelled()` says that it is no longer wanted.

        Args:
            cancelled: asked at every look.
            poll: seconds between two looks.
            beat: leave the queue after so many seconds; 0 waits for ever.

        Returns:
            Whether the card is ours.
        """
        until = time.monotonic() + beat if beat else None
        while not self.take():
            self._queue()
            if cancelled() or (until is not None and time.monotonic() >= until):
                self._drop_ticket()
                return False
            time.sleep(poll)
        return True

    def ahead(self) -> int:
        """Living waiters with an older ticket."""
        count = 0
        for path in sorted(self.folder.glob("*.ticket")):
            if path.name >= self._name:
                break
            if _locked(path):
                count += 1
            else:
                path.unlink(missing_ok=True)
        return count

    def release(self) -> None:
        """Give the card and the place in the queue back."""
        self._drop_ticket()
        self._lock.release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _queue(self) -> None:
        """Hold a ticket; a new one in the old place where somebody took it for a dead one's as it was being made."""
        path = self.folder / self._name
        if self._ticket is not None and path.exists():
            return
        if self._ticket is not None:
            self._ticket.release()
        self._ticket = FileLock(path)
        self._ticket.acquire()

    def _drop_ticket(self) -> None:
        if self._ticket is not None:
            self._ticket.release()
            self._ticket = None
            with contextlib.suppress(OSError):
                (self.folder / self._name).unlink(missing_ok=True)


def _locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path`."""
    if not path.exists():
        return False
    probe = FileLock(path)
    try:
        probe.acquire(timeout=0)
    except Timeout:
        return True
    probe.release()
    return False
