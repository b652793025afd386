"""Long actions: each is a process of the command line, recorded in the run store; this only starts and watches them.

- The id is chosen here, so that it is known before the process has written anything.
- The process belongs to no one: it lives on when the UI ends, and stands in its own session.
- What it prints goes to files under `jobs`; a refusal that came before its row is read from there.
- A model that answers (`serve`) gives way to a training or an evaluation that is started after it.
- No password of the UI goes on: variables of the UI are taken out of its environment, and none is in its arguments.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service import secrets as secret_store
from bp_ui.service.places import Places

COMMAND = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]
RECORDED = [sys.executable, "-m", "bp_ui.service.recorded"]
OUTPUT_KEPT = 4 * 1024 * 1024


@dataclasses.dataclass
class Started:
    """A process that this server started; the row in the store is the truth once it is there."""

    run_id: str
    kind: str
    process: subprocess.Popen[bytes]
    began: float


class Jobs:
    """Starts processes and knows those that have no row yet.

    Args:
        places: the folders of the server.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._started: dict[str, Started] = {}
        self._lock = threading.Lock()

    def new_id(self) -> str:
        """An id that sorts by time."""
        return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"

    def train(self, flags: Sequence[str], *, run_id: str | None = None, queue: bool = True) -> str:
        """Start a training; returns its id.

        Args:
            flags: of `backprop train`, without those that are set here.
            run_id: chosen by the client.
            queue: wait for the card.

        Raises:
            BpError: `CONFIG_INVALID_SETTING`, `INPUT_RUN_EXISTS` for a bad or taken id.
        """
        run_id = self._checked(run_id)
        self.free_card()
        line = ["train", *flags, "--output", str(self.places.output), "--run-id", run_id, "--json"]
        return self._start("train", run_id, [*COMMAND, *line, *(["--queue"] if queue else [])])

    def multi_run(self, flags: Sequence[str], *, run_id: str | None = None) -> str:
        """Start a session of many runs; returns its id. It waits for the card."""
        run_id = self._checked(run_id)
        self.free_card()
        line = ["multi-run", *flags, "--output", str(self.places.output), "--run-id", run_id, "--fresh"]
        return self._start("multi-run", run_id, [*COMMAND, *line, "--queue", "--json"])

    def replay(self, run_id: str, overrides: Mapping[str, str], *, new_id: str | None = None) -> str:
        """Start a training again with the settings of a run; returns the new run's id.

        Args:
            run_id: of the run that is replayed.
            overrides: setting → value.
            new_id: chosen by the client.
        """
        new_id = self._checked(new_id)
        self.free_card()
        changes = [f"--override={k}={v}" for k, v in overrides.items()]
        line = ["replay", run_id, *changes, "--output", str(self.places.output), "--run-id", new_id]
        return self._start("train", new_id, [*COMMAND, *line, "--queue", "--json"])

    def resume(self, run_id: str) -> str:
        """Continue a run that stopped, was stopped or crashed.

        Raises:
            BpError: those of `RunTable.resumable`; `STATE_RUN_ACTIVE` where it is running.
        """
        from bp_core.runs.rows import LIVE
        from bp_core.runs.store import RunStore

        store = RunStore(self.places.output)
        kind = "multi-run" if store.get(run_id).kind == "multi-run" else "train"
        record = store.resumable(run_id, kind=kind)
        if record.status in LIVE and record.finished_at is None:
            raise BpError(
                "STATE_RUN_ACTIVE",
                f"run {record.run_id} is {record.status}",
                f"backprop show-run {record.run_id}",
            )
        self.free_card()
        line = ["resume", record.run_id, "--output", str(self.places.output), "--json"]
        return self._start(record.kind, record.run_id, [*COMMAND, *line])

    def export(self, arguments: Sequence[str], *, run_id: str | None = None) -> str:
        """Start an export; returns the id of its job."""
        run_id = self._checked(run_id)
        line = ["export", *arguments, "--run-id", run_id, "--json"]
        return self._start("export", run_id, [*COMMAND, *line])

    def evaluate(self, model: str, flags: Sequence[str], *, job_id: str | None = None) -> str:
        """Start an evaluation of a run's adapter; returns the id of its job."""
        job_id = self._checked(job_id)
        self.free_card()
        line = [
            "eval",
            model,
            *flags,
            "--output",
            str(self.places.output),
            "--run-id",
            job_id,
            "--queue",
            "--json",
        ]
        return self._start("eval", job_id, [*COMMAND, *line])

    def serve(self, model: str, backend: str, key: Mapping[str, str]) -> str:
        """Let a model answer at a free port of this machine; returns the id of its job.

        Args:
            model: as `backprop serve` takes it.
            backend: auto, cuda or cpu.
            key: the variable with the key that requests must carry.
        """
        run_id = self._checked(None)
        [(name, value)] = key.items()
        line = [
            "serve",
            model,
            "--port=0",
            f"--backend={backend}",
            f"--serve-key-env={name}",
            f"--run-id={run_id}",
        ]
        line += ["--output", str(self.places.output), "--json"]
        return self._start("serve", run_id, [*COMMAND, *line], secret={name: value})

    def secret(self, run_id: str) -> str:
        """The key of a model that answers."""
        return self.file(run_id, "key").read_text(encoding="utf-8")

    def free_card(self) -> None:
        """Ask every model that answers to end; it does within a second."""
        from bp_core.runs.rows import LIVE
        from bp_core.runs.store import RunStore

        store = RunStore(self.places.output)
        for job in self.starting():
            if job.kind == "serve" and job.process.poll() is None:
                job.process.terminate()
        for record in store.list(kind="serve", limit=5):
            if record.status in LIVE:
                with contextlib.suppress(BpError):  # it ended by itself meanwhile
                    store.request(record.run_id, "stop")

    def command(
        self,
        kind: str,
        arguments: Sequence[str],
        about: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
    ) -> str:
        """Start any other command of `backprop`, recorded as a job of its kind; its JSON becomes the job's result.

        Args:
            kind: of the job.
            arguments: of `backprop`, the command first.
            about: what the record says of it beside the arguments.
            run_id: of the job.
        """
        run_id = self._checked(run_id)
        told = json.dumps(
            {"kind": kind, "run_id": run_id, "output": str(self.places.output), **(about or {})}
        )
        return self._start(kind, run_id, [*RECORDED, told, *arguments])

    def now(self, arguments: Sequence[str], *, timeout: float = 600.0) -> dict[str, Any]:
        """Run a command that writes nothing and wait for its JSON; `told` is what it said besides.

        Raises:
            BpError: that of the command.
        """
        done = subprocess.run(
            [*COMMAND, *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.places.start,
            env=self._environment(),
        )
        data = last_json(done.stdout)
        if "error" in data:
            raise from_dict(data["error"])
        if not data:
            said = done.stderr.strip().splitlines()
            raise BpError(
                "RUNTIME_UNEXPECTED", said[-1] if said else "the command said nothing", "backprop info"
            )
        return {**data, "told": done.stderr}

    # ------------------------------------------------------------------------------------------ watching

    def starting(self) -> list[Started]:
        """Processes of this server that have no row yet, and those that ended without one."""
        from bp_core.runs.store import RunStore

        store = RunStore(self.places.output)
        with self._lock:
            candidates = list(self._started.values())
        out = []
        for job in candidates:
            try:
                store.get(job.run_id)
            except BpError:
                out.append(job)
            except Exception as error:
                if getattr(error, "code", "") != "INPUT_RUN_NOT_FOUND":
                    raise
                out.append(job)
        return out

    def is_starting(self, run_id: str) -> bool:
        """Whether a process was started under that id and still lives."""
        job = self._started.get(run_id)
        return job is not None and job.process.poll() is None

    def refusal(self, run_id: str) -> BpError | None:
        """Why a process ended before it had a row; None where it did not."""
        job = self._started.get(run_id)
        if job is None or job.process.poll() is None:
            return None
        return self.told_error(run_id)

    def told_error(self, run_id: str) -> BpError | None:
        """The coded error that a job printed, None where it printed none."""
        data = last_json(tail(self.file(run_id, "out")))
        return from_dict(data["error"]) if "error" in data else None

    def file(self, run_id: str, what: str) -> Path:
        """The file with what a job printed: `out` or `err`."""
        return self.places.writable("jobs", f"{run_id}.{what}")

    # ------------------------------------------------------------------------------------------ inside

    def _checked(self, run_id: str | None) -> str:
        from bp_core.runs.store import RunStore

        chosen = run_id or self.new_id()
        RunStore(self.places.output).check_new(chosen)
        if self.is_starting(chosen):
            raise BpError("INPUT_RUN_EXISTS", f"a run {chosen} is starting", "backprop runs")
        return chosen

    def _environment(self) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.upper().startswith(("BACKPROPAGATE_UI", "REFLEX_", "__REFLEX"))
        }
        return {**kept, **secret_store.given(), "BP_NO_PROGRESS": "1", "PYTHONUNBUFFERED": "1"}

    def _start(
        self, kind: str, run_id: str, command: list[str], *, secret: Mapping[str, str] | None = None
    ) -> str:
        folder = self.file(run_id, "out").parent
        folder.mkdir(exist_ok=True, mode=0o700)
        for value in (secret or {}).values():
            with os.fdopen(
                os.open(self.file(run_id, "key"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
            ) as file:
                file.write(value)
        with self.file(run_id, "out").open("wb") as out, self.file(run_id, "err").open("ab") as err:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.places.start,
                env={**self._environment(), **(secret or {})},
                start_new_session=True,
            )
        with self._lock:
            ended = [k for k, v in self._started.items() if v.process.poll() is not None][:-200]
            for key in ended:
                del self._started[key]
            self._started[run_id] = Started(run_id, kind, process, time.time())
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie is left
        return run_id


def last_json(text: str) -> dict[str, Any]:
    """The last line that is a JSON object, {} where none is."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(line)
    return {}


def tail(file: Path, size: int = OUTPUT_KEPT) -> str:
    """The end of a file, "" where there is none."""
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - size))
            return opened.read().decode("utf-8", "replace")
    except OSError:
        return ""


def from_dict(error: Mapping[str, Any]) -> BpError:
    """The error that another process told as JSON."""
    return BpError(
        str(error.get("code", "RUNTIME_UNEXPECTED")),
        str(error.get("message", "")),
        str(error.get("hint", "")),
        retryable=bool(error.get("retryable")),
        details=error.get("details") or {},
    )
