"""A model's code in a child process with limits; the only place of the package that runs any.

- A fresh interpreter (`-I`: no user site, no environment) in a folder that is deleted after, its own session, an
  environment of its own, stdin and stdout shut; what it prints goes nowhere.
- Limits that the child sets on itself before it reads the code: CPU seconds, memory, size of a written file, open
  files, processes, no core dump. The parent kills the session at the wall limit.
- The verdict is a word that the child is told with the code and writes to a pipe of its own only after the last line
  ran: an early `sys.exit(0)` or `os._exit(0)` is no success.
- This bounds accidents: loops, memory, floods of output. It is no wall against malice: the code has your user's rights
  to read files and, unless it runs `offline`, to reach the network, can look for the word in its own memory, and as
  root the limit of processes does not hold. Run what you do not trust in a container.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bp_merge.common import BpError

_CHILD = r"""
import json, os, resource, sys
task = json.loads(sys.stdin.buffer.read())
if task["offline"]:
    try:  # a user and a network namespace of its own: no interface but a loopback that is down
        if hasattr(os, "unshare"):
            os.unshare(0x10000000 | 0x40000000)
        else:
            import ctypes
            if ctypes.CDLL(None).unshare(0x10000000 | 0x40000000):
                raise OSError
    except (OSError, AttributeError):
        os.write(task["pipe"], task["word"][::-1].encode())
        os._exit(0)
for name, value in task["limits"].items():
    soft, hard = resource.getrlimit(getattr(resource, name))
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(getattr(resource, name), (value, value))
pipe, word, parts = task["pipe"], task["word"], task["parts"]
del task
quiet = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(quiet, fd)
space = {"__name__": "__main__"}
def go(parts=parts, space=space, write=os.write, pipe=pipe, word=word.encode()):
    exec(compile(parts[0], "<completion>", "exec"), space)
    write(pipe, word)
    for part in parts[1:]:
        try:
            exec(compile(part, "<test>", "exec"), space)
            write(pipe, word)
        except BaseException:
            write(pipe, b"-" * len(word))
del parts, word, pipe, space
go()
os._exit(0)
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one run may use.

    Args:
        seconds: wall time (s); the CPU time is limited to the same, rounded up.
        memory_mb: address space (MB).
        offline: run only where the kernel grants a network namespace, in which nothing can be reached.
    """

    seconds: float = 5.0
    memory_mb: int = 1024
    offline: bool = False


def run(code: str, tests: Sequence[str] = (), limits: Limits | None = None) -> list[bool]:
    """Run code in a child, then each test in the same namespace.

    Args:
        code: a program.
        tests: each raises where it fails; one after another, all of them.
        limits: of the whole run.

    Returns:
        Whether the code ran to its end, then whether each test did. A test that was not reached did not.

    Raises:
        BpError: `CONFIG_CODE_NOT_RUN` where the system has no limits to set, or grants no network namespace to code
            that must be offline.
    """
    limits = limits or Limits()
    if os.name != "posix":
        raise BpError(
            "CONFIG_CODE_NOT_RUN",
            "a model's code runs only where its memory and time can be limited: Linux or macOS",
            "use code_parses here, or run the same command in WSL or a container",
        )
    megabyte, cpu = 1 << 20, max(1, int(limits.seconds + 0.999))
    word = secrets.token_hex(16)
    task = {
        "parts": [code, *tests],
        "word": word,
        "offline": limits.offline,
        "limits": {
            "RLIMIT_CPU": cpu,
            "RLIMIT_AS": limits.memory_mb * megabyte,
            "RLIMIT_FSIZE": megabyte,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_NPROC": 0,
            "RLIMIT_CORE": 0,
        },
    }
    if sys.platform == "darwin":
        del task["limits"]["RLIMIT_AS"]  # macOS refuses any; its own pressure handling ends the process
    reader, writer = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="reward-", ignore_cleanup_errors=True) as folder:
            try:
                _child(json.dumps({**task, "pipe": writer}), writer, folder, limits.seconds)
            finally:
                os.close(writer)
                writer = -1
            said = _read(reader, len(word) * (1 + len(tests)))
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    size = len(word)
    if said == word[::-1]:
        raise BpError(
            "CONFIG_CODE_NOT_RUN",
            "this kernel grants no network namespace, so a model's code could reach the network",
            "run it in a container without network, or allow the network",
        )
    verdicts = [said[i : i + size] == word for i in range(0, len(said), size)]
    return (verdicts + [False] * (1 + len(tests)))[: 1 + len(tests)]


def _child(task: str, writer: int, folder: str, seconds: float) -> None:
    environment = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1",
                   "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", "-W", "ignore", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        pass_fds=(writer,),
        start_new_session=True,
    )
    end = time.monotonic() + seconds
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(task.encode("utf-8", "surrogatepass"), timeout=max(0.0, end - time.monotonic()))
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # what it started in its session too
        child.wait()
        if child.stdin:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()


def _read(fd: int, most: int) -> str:
    """What stands in the pipe now; a process that escaped may still hold its other end, so nothing waits for it."""
    os.set_blocking(fd, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while len(said) < most and (part := os.read(fd, most - len(said))):
            said += part
    return said.decode("ascii", "replace")
