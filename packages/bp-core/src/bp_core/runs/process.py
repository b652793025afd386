"""Which process writes a run, and whether that very process still lives.

- A process id alone lies: ids are reused, and a container may share the host's name with its own ids. The identity
  is host, process-id namespace (Linux), id and start time.
"""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessIdentity:
    """Host name, process-id namespace ("" where the system has none), process id and start (s since the epoch)."""

    host: str
    pid_space: str
    pid: int
    started: float | None


def process_identity() -> ProcessIdentity:
    """The identity of the present process."""
    return _identity(os.getpid())  # keyed by the id, so that a forked child does not inherit its parent's


@functools.lru_cache(maxsize=2)
def _identity(pid: int) -> ProcessIdentity:
    import psutil

    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - "pid:[4026531836]" is no path
    except OSError:
        space = ""
    return ProcessIdentity(platform.node(), space, pid, psutil.Process(pid).create_time())


def process_alive(pid: int, started: float | None) -> bool:
    """Whether that very process lives: the id exists, is no zombie, and began when recorded (within 2 s)."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < 2.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
