"""The writing end of one run: what a training loop calls at every step without waiting for a disk.

- Metrics, events and artifacts go into memory; a thread commits them once a second and beats the heart every
  5 s, also while a step, an evaluation or a pause takes minutes. A kill loses at most that second.
- The store never stops a training. A locked, full or damaged file is logged once and retried, with what is
  waiting kept in memory (`problem` tells what is wrong); only `finish` raises, after its own time limit.
- Past `MAX_WAITING` waiting rows the oldest metrics are let go and counted in `dropped`; events never are.
- `control` is asked at every step: one indexed read of some 20 µs, on its own connection, in WAL mode never
  blocked by a writer.
"""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from bp_core.errors import BpError
from bp_core.runs import schema as runs_db
from bp_core.runs.rows import (
    ACTIONS,
    BEFORE,
    ENDS,
    FACTS,
    Action,
    insert_artifact,
    insert_event,
    iso,
    read_manifest,
    restore_row,
    unwritable,
)
from bp_core.runs.table import RunTable
from bp_core.support import logs
from bp_core.support.files import dumps, plain, write_json
from bp_core.support.redact import redact, redact_text

FLUSH_EVERY = 1.0  # seconds
HEARTBEAT_EVERY = 5.0  # seconds
LOCK_WAIT = 0.5  # seconds that one background commit waits for another process's lock
MAX_WAITING = 500_000  # rows
_CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")

LOGGER = "bp_core.runs.store"

_Op = tuple[str, Callable[[sqlite3.Connection], object]]


class Run:
    """A run being written. Made by `RunStore.create` and `RunStore.open`; a context manager that always ends it.

    Leaving the `with` block without an exception completes the run, a KeyboardInterrupt marks it interrupted, any
    other exception failed, unless `finish` was called before.

    Attributes:
        run_id: its id.
        path: its directory.
        status: how it stands now.
        step: the last step that a metric or heartbeat named.
        problem: why the last commit failed, None while all is well.
        dropped: metric values given up because the store stayed unwritable.
    """

    def __init__(
        self,
        store: RunTable,
        run_id: str,
        path: Path,
        *,
        step: int = 0,
        status: str = "running",
        started_at: float | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.run_id = run_id
        self.path = path
        self.step = step
        self.status = status
        self._started_at = started_at
        self._progress: dict[str, Any] = dict(progress or {})
        self.problem: BpError | None = None
        self.dropped = 0
        self._waiting: deque[_Op] = deque()
        self._lock = (
            threading.RLock()
        )  # guards _waiting; a signal handler may record an event in the middle of one
        self._db_lock = threading.Lock()  # guards _db: one commit at a time
        self._db: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._seen = 0  # id of the last control row read
        self._stop = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=f"bp-run-{run_id}", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------------------------- how it stands

    def announce(self) -> None:
        """The event of the status that the run entered with: JOB_QUEUED, JOB_PREPARING or RUN_STARTED."""
        about = read_manifest(self.path / "manifest.json")
        details = {k: about[k] for k in ("run_id", "seed", "parent")}
        if self.status == "queued":
            self.event("JOB_QUEUED", f"{about['kind']} job queued", **details)
        elif self.status == "preparing":
            self.event("JOB_PREPARING", f"{about['kind']} job prepares", **details)
        else:
            self.event("RUN_STARTED", f"{about['kind']} run started", **details)

    def describe(self, *, seed: int | None = None, **facts: Mapping[str, Any]) -> None:
        """Record what was not known when the row was made, in `manifest.json` and the row.

        Args:
            seed: of the run.
            **facts: `config`, `sources`, `environment`, `dataset`, `base_model`, as in `RunStore.create`; each
                replaces what stood there.

        Raises:
            TypeError: another name.
            BpError: `STATE_RUNS_UNWRITABLE`, `RUNTIME_DISK_FULL`, `INPUT_MANIFEST_INVALID`.
        """
        if unknown := set(facts) - set(FACTS):
            raise TypeError(f"a run is described by {', '.join(FACTS)}, not {', '.join(sorted(unknown))}")
        new: dict[str, Any] = {
            k: plain(v) if k == "sources" else redact(plain(v), needed=True) for k, v in facts.items()
        }
        file = self.path / "manifest.json"
        columns: dict[str, Any] = {k: dumps(v) for k, v in new.items()}
        if seed is not None:
            new["seed"] = columns["seed"] = seed
        try:
            write_json(file, {**read_manifest(file), **new})
        except OSError as error:
            raise unwritable(error, file) from error
        self._update(**columns)
        self.flush()

    def prepare(self) -> None:
        """From `queued` to `preparing`: the job's turn has come."""
        self._enter("preparing")

    def begin(self, *, total: float | None = None, unit: str = "steps") -> None:
        """Begin the work: the status is `running` from here on.

        Args:
            total: how much there is to do, in `unit`; None where that is not known.
            unit: what progress counts; `steps` are those of `metric` and `heartbeat`.

        Raises:
            BpError: `STATE_JOB_CANCELLED` where a stop was asked for before; the run has ended then.
        """
        if self.stop_asked():
            raise self.cancelled()
        self._started_at = time.time()
        self._progress = {"done": 0, "total": total, "unit": unit}
        self._enter("running")

    def progress(self, done: float, total: float | None = None) -> None:
        """Say how much of the work is done, in the unit of `begin`. Costs one assignment, like `heartbeat`."""
        self._progress = {**self._progress, "done": done, **({} if total is None else {"total": total})}

    def stop_asked(self) -> bool:
        """Whether another process asked the job to stop; asked once each."""
        return self.control() in ("stop", "stop-and-save")

    def cancelled(self) -> BpError:
        """End a job as `stopped` that another process called off, and give the error that tells so."""
        cause = f"{self.run_id} was stopped{' before its work began' if self.status in BEFORE else ''}"
        self.finish("stopped", {"error": cause, "error_code": "STATE_JOB_CANCELLED"})
        return BpError(
            "STATE_JOB_CANCELLED",
            cause,
            f"backprop show-run {self.run_id}{self.store.flag}",
            details={"run_id": self.run_id},
        )

    def _enter(self, status: str) -> None:
        if self.status not in BEFORE:
            raise ValueError(f"run {self.run_id} is {self.status}: it cannot become {status} again")
        self.status = status
        self._update(status=status, started_at=self._started_at)
        self.announce()
        self.flush()

    def _update(self, **columns: Any) -> None:
        if columns:
            names, values = ", ".join(f"{k}=?" for k in columns), (*columns.values(), self.run_id)
            self._add("status", lambda db: db.execute(f"UPDATE runs SET {names} WHERE run_id=?", values))

    # ---------------------------------------------------------------------------------- what happened

    def metric(self, step: int, **values: float) -> None:
        """Record numbers of a step. The same step and name again replaces the value.

        Raises:
            TypeError: a value is no number.
        """
        now = time.time()
        numbers = []
        for name, value in values.items():
            if isinstance(value, str) or value is None:
                raise TypeError(f"metric {name} must be a number, not {value!r}")
            number = float(value)
            numbers.append((self.run_id, name, int(step), None if math.isnan(number) else number, now))
        self.step = max(self.step, int(step))
        self._add(
            "metric",
            lambda db: db.executemany(
                "INSERT OR REPLACE INTO metrics(run_id, name, step, value, time) VALUES (?,?,?,?,?)", numbers
            ),
        )

    def event(self, code: str, message: str, **details: Any) -> None:
        """Record and log what happened and why, under a stable reason code of `errors.EVENTS`.

        Raises:
            ValueError: the code is not made of capitals, digits and underscores.
        """
        if not _CODE.fullmatch(code):
            raise ValueError(f"an event's code is made of capitals, digits and underscores, not {code!r}")
        step, now, kept = self.step, time.time(), plain(details)
        logs.get(LOGGER).info(message, code=code, step=step)
        self._add("event", lambda db: insert_event(db, self.run_id, step, code, message, now, kept))

    def artifact(self, kind: str, path: str | Path, **meta: Any) -> None:
        """Record a file or directory that the run made; the same kind and path again renews it."""
        stored, now, kept = self.store._stored(self.run_id, path), time.time(), plain(meta)
        self._add("artifact", lambda db: insert_artifact(db, self.run_id, kind, stored, now, kept))

    def heartbeat(self, step: int) -> None:
        """Say where the run stands. Costs one assignment: the thread writes it down."""
        self.step = max(self.step, int(step))

    def paused(self, paused: bool = True) -> None:
        """Show the run as paused, or as running again."""
        self.status = "paused" if paused else "running"
        self._update(status=self.status)

    # --------------------------------------------------------------------------------- what is asked

    def control(self) -> Action | None:
        """The newest request not yet obeyed, once; None where there is none or the store cannot be read now."""
        try:
            if self._reader is None:
                self._reader = runs_db.connect(self.store.path, timeout=0.1)
            rows = self._reader.execute(
                "SELECT id, action FROM control WHERE run_id=? AND taken_at IS NULL AND id>? ORDER BY id",
                (self.run_id, self._seen),
            ).fetchall()
        except (sqlite3.Error, BpError):
            self._close_reader()  # the writer tells what is wrong with the store
            return None
        if not rows:
            return None
        self._seen, action = rows[-1]["id"], rows[-1]["action"]
        seen, now = self._seen, time.time()
        self._add(
            "status",
            lambda db: db.execute(
                "UPDATE control SET taken_at=? WHERE run_id=? AND id<=? AND taken_at IS NULL",
                (now, self.run_id, seen),
            ),
        )
        self.event("CONTROL_TAKEN", f"asked to {action}", action=action)
        return cast("Action", action) if action in ACTIONS else None

    # --------------------------------------------------------------------------------------- the end

    def finish(
        self, status: str = "completed", result: Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> None:
        """End the run: `result.json`, the row, everything that waits. Calling it again changes nothing.

        Args:
            status: completed, stopped, failed, paused or interrupted.
            result: what came out, JSON-able (dataclasses too).
            timeout: seconds to keep trying where the store is locked or the disk full.

        Raises:
            BpError: the store could not be written in that time; the files of the run are safe.
        """
        if status not in (*ENDS, "paused"):
            raise ValueError(f"a run cannot finish as {status!r}")
        if self._closed:
            return
        now, kept, step = time.time(), redact(plain(result or {}), needed=True), self.step
        self.status = status
        lost = {"metrics_dropped": self.dropped} if self.dropped else {}
        self.event("RUN_FINISHED", f"{status} at step {step}", status=status, **lost)
        self._update(
            status=status,
            result=dumps(kept),
            step=step,
            progress=dumps(self._done()),
            heartbeat_at=now,
            finished_at=now,
        )
        failure: BpError | None = None
        summary = {
            "schema_version": 1,
            "run_id": self.run_id,
            "status": status,
            "step": step,
            "progress": self._done(),
            "started_at": iso(self._started_at),
            "finished_at": iso(now),
        }
        try:
            write_json(self.path / "result.json", {**summary, "result": kept})
        except OSError as error:
            failure = unwritable(error, self.path / "result.json")
        self._closed = True
        self._stop.set()
        self._thread.join()
        until = time.monotonic() + timeout
        try:
            while not self._flush(wait=max(0.1, min(5.0, until - time.monotonic()))):
                if time.monotonic() >= until:
                    failure = failure or self.problem
                    break
                time.sleep(0.2)
        finally:
            self._close_reader()
            with self._db_lock:
                self._close_db()
        if failure is not None:
            raise failure

    def flush(self) -> bool:
        """Commit what waits now; False where the store cannot be written (`problem` says why)."""
        return self._flush(wait=LOCK_WAIT)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        if error is None:
            self.finish("completed")
            return
        code = str(getattr(error, "code", "")) if isinstance(getattr(error, "code", None), str) else ""
        cause = redact_text(str(error).splitlines()[0] if str(error) else type(error).__name__)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.event(
            "RUN_FAILED" if status == "failed" else "RUN_INTERRUPTED",
            cause,
            error=type(error).__name__,
            error_code=code,
        )
        # the error under way matters more than the store's own
        with contextlib.suppress(BpError):
            self.finish(
                status, {"error": cause, "error_type": type(error).__name__, "error_code": code}, timeout=5.0
            )

    # ---------------------------------------------------------------------------------------- inside

    def _add(self, kind: str, write: Callable[[sqlite3.Connection], object]) -> None:
        if self._closed:
            raise ValueError(
                f"run {self.run_id} has ended; record later events and artifacts through its RunStore"
            )
        with self._lock:
            self._waiting.append((kind, write))
            if len(self._waiting) > MAX_WAITING:
                kept = deque(op for op in self._waiting if op[0] != "metric")
                room = MAX_WAITING // 2
                metrics = [op for op in self._waiting if op[0] == "metric"]
                self.dropped += max(0, len(metrics) - room)
                self._waiting = deque((*kept, *metrics[-room:]))

    def _done(self) -> dict[str, Any]:
        """Progress; where it counts steps, as far as the last one."""
        return (
            {**self._progress, "done": self.step} if self._progress.get("unit") == "steps" else self._progress
        )

    def _loop(self) -> None:
        beat = time.monotonic()
        pause = FLUSH_EVERY
        while not self._stop.wait(pause):
            due = time.monotonic() - beat >= HEARTBEAT_EVERY
            if self._waiting or due:
                done = self._flush(wait=LOCK_WAIT)
                beat = time.monotonic() if done else beat
                pause = FLUSH_EVERY if done else min(pause * 2, 30.0)

    def _flush(self, *, wait: float) -> bool:
        """Commit all that waits in one transaction, with a heartbeat; what failed stays first in the queue."""
        with self._db_lock:
            with self._lock:
                batch, self._waiting = self._waiting, deque()
            try:
                if self._db is None:
                    self._db = runs_db.connect(self.store.path, timeout=wait, create=True)
                db = self._db
                db.execute(f"PRAGMA busy_timeout={int(wait * 1000)}")
                db.execute("BEGIN IMMEDIATE")
                if not db.execute("SELECT 1 FROM runs WHERE run_id=?", (self.run_id,)).fetchone():
                    # the file was replaced under a running training
                    live = {"status": self.status, "started_at": self._started_at}
                    restore_row(db, self.path, live=live)
                for _, write in batch:
                    write(db)
                if not self._closed:
                    db.execute(
                        "UPDATE runs SET heartbeat_at=?, step=?, progress=? WHERE run_id=?",
                        (time.time(), self.step, dumps(self._done()), self.run_id),
                    )
                db.execute("COMMIT")
            except (sqlite3.Error, OSError, BpError) as error:
                failed = self._coded(error)
                if self.problem is None:
                    logs.get(LOGGER).warning(
                        "the run store cannot be written, values wait in memory: %s", failed.message
                    )
                self.problem = failed
                self._close_db()
                with self._lock:
                    self._waiting.extendleft(reversed(batch))
                return False
            if self.problem is not None:
                logs.get(LOGGER).warning("the run store can be written again")
            self.problem = None
            return True

    def _coded(self, error: BaseException) -> BpError:
        if isinstance(error, BpError):
            return error
        if isinstance(error, sqlite3.Error):
            return runs_db.coded(error, self.store.path)
        return unwritable(cast("OSError", error), self.store.path)

    def _close_db(self) -> None:
        """Give the connection up: the next commit opens the file afresh, which a repaired file needs."""
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _close_reader(self) -> None:
        if self._reader is not None:
            with contextlib.suppress(sqlite3.Error):
                self._reader.close()
            self._reader = None
