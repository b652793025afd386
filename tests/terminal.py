"""A program in a real terminal: keys in, what is shown out. POSIX alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

BACKPROP = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]


class Terminal:
    """A running program and what its terminal has shown so far."""

    def __init__(self, child: subprocess.Popen[bytes], master: int) -> None:
        self.child, self.master, self.seen = child, master, ""

    def until(self, mark: str, seconds: float = 120) -> str:
        """Read until `mark` is shown; what was shown. Fails where the program ends, or takes too long."""
        end = time.monotonic() + seconds
        while mark not in self.seen:
            assert time.monotonic() < end, self.seen
            if not self._read(1):
                raise AssertionError(f"it ended before {mark!r}: {self.seen}")
        return self.seen

    def press(self, keys: str) -> None:
        """Type; \x03 is Ctrl-C."""
        os.write(self.master, keys.encode())

    def ended(self, seconds: float = 120) -> int:
        """The exit code, once everything was read."""
        end = time.monotonic() + seconds
        while self._read(1):
            assert time.monotonic() < end, self.seen
        return self.child.wait(10)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return True
        try:
            shown = os.read(self.master, 4096)
        except OSError:  # the program closed its end
            return False
        self.seen += shown.decode(errors="replace")
        return bool(shown)


@contextlib.contextmanager
def terminal(*words: str, folder: Path, columns: int = 100, **environment: str) -> Iterator[Terminal]:
    """`backprop WORDS` in a terminal of that width, which is its controlling one."""
    import pty

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def take() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = subprocess.Popen(
        [*BACKPROP, *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        preexec_fn=take,
    )
    os.close(slave)
    try:
        yield Terminal(child, master)
    finally:
        child.kill()
        child.wait()
        os.close(master)
