"""A real `backprop ui` in a process of its own, for the tests that speak to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

BACKPROP = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]
ROWS = [
    {"prompt": f"Capital of {land}? ({i})", "completion": f"{city}."}
    for i in range(4)
    for land, city in zip(
        ["France", "Spain", "Italy", "Peru", "Chile", "Japan"],
        ["Paris", "Madrid", "Rome", "Lima", "Santiago", "Tokyo"],
        strict=True,
    )
]


def needs_pages():
    """Skip where this checkout has no compiled pages that fit their sources; the checks compile them first."""
    from bp_merge.common import BpError
    from bp_ui.server.serve import check_built

    try:
        check_built()
    except BpError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in `folder`, which holds data.jsonl; its output is `folder/out`."""

    def __init__(self, folder: Path, *flags: str, port: int | None = None):
        self.folder, self.flags, self.port = folder, flags, port or free_port()
        self.output = folder / "out"
        folder.mkdir(exist_ok=True)
        (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: float = 120.0):
        env = {
            k: v for k, v in os.environ.items() if not k.startswith(("BACKPROPAGATE_", "REFLEX_", "__REFLEX"))
        }
        env["BACKPROPAGATE_LEASE_DIR"] = str(self.folder / "leases")
        self.log = (self.folder / "ui.log").open("ab")
        command = [*BACKPROP, "ui", "--port", str(self.port), "--output", str(self.output), *self.flags]
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        while time.monotonic() - began < wait:
            if self.process.poll() is not None:
                raise AssertionError(self.told())
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/ping", timeout=30)
                self.ready_after = time.monotonic() - began
                return self
            time.sleep(0.1)
        raise AssertionError(f"no answer in {wait} s: {self.told()}")

    def told(self):
        return (self.folder / "ui.log").read_text()

    def kill(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.log.close()
            self.process = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
        for run in self.output.glob("*/manifest.json"):  # no job outlives its test
            pid = self._pid(run.parent.name)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _pid(self, run_id):
        from bp_core.runs.store import RunStore

        record = RunStore(self.output).get(run_id)
        return record.pid if record.status in ("queued", "preparing", "running", "paused") else 0

    def wait_for(self, run_id, *statuses, seconds=240.0):
        """The run when it has one of the statuses."""
        from bp_core.errors import BpError
        from bp_core.runs.store import RunStore

        until = time.monotonic() + seconds
        status = "not there"
        while time.monotonic() < until:
            with contextlib.suppress(BpError):
                record = RunStore(self.output).get(run_id)
                status = record.status
                if status in statuses:
                    return record
            time.sleep(0.2)
        out = self.output / "jobs" / f"{run_id}.out"
        raise AssertionError(f"{run_id} is {status}: {out.read_text() if out.exists() else ''}")
