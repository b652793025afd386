"""The table of runs as it is read: records, metrics, events, artifacts, and requests to a live run.

- Everything but beginning and continuing a run, which `bp_core.runs.store` adds; a UI and a command line need no more.
- The file is opened per call; reading makes nothing where there is nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import json
import math
import shlex
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bp_core.errors import BpError
from bp_core.runs import schema as runs_db
from bp_core.runs.rows import (
    ACTIONS,
    BEFORE,
    LATEST,
    LIVE,
    Action,
    Artifact,
    Event,
    RunRecord,
    insert_artifact,
    is_live,
    status_of,
)
from bp_core.support.files import storable


class RunTable:
    """The runs of one output directory. Cheap to make; opens the file per call, so it may be shared by threads.

    Args:
        output: the directory that holds `runs.db` and the run directories. Nothing is created by reading.
        timeout: seconds that a call waits for another process's lock.
    """

    def __init__(self, output: str | Path, *, timeout: float = 10.0) -> None:
        self.output = Path(output)
        self.path = self.output / runs_db.FILE_NAME
        self.timeout = timeout

    @property
    def flag(self) -> str:
        """` --output FOLDER` for a hint, "" where it is the default."""
        return "" if self.output == Path("output") else f" --output {shlex.quote(str(self.output))}"

    def request(self, run_id: str, action: Action) -> str:
        """Ask a live run to pause, resume, stop or stop and save; it obeys at its next step. Returns the full id.

        Raises:
            BpError: `STATE_RUN_NOT_ACTIVE` where nothing is running that could obey; a job that waits or prepares,
                or is no training, can only be stopped.
            ValueError: an unknown action.
        """
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
        with self._open(required=run_id) as db:
            row = self._find(db, run_id)
            status = status_of(row)
            stop = action.startswith("stop")
            cannot = status in BEFORE or row["kind"] != "train"
            if not is_live(row) or (cannot and not stop):
                again = (
                    f"backprop stop {row['run_id']}" if is_live(row) else f"backprop show-run {row['run_id']}"
                )
                raise BpError(
                    "STATE_RUN_NOT_ACTIVE",
                    f"{row['kind']} {row['run_id']} is {status}: there is nothing to {action.split('-')[0]}",
                    f"{again}{self.flag}",
                    details={"run_id": row["run_id"], "status": status},
                )
            db.execute(
                "INSERT INTO control(run_id, action, requested_at) VALUES (?,?,?)",
                (row["run_id"], action, time.time()),
            )
            return row["run_id"]

    def add_artifact(self, run_id: str, kind: str, path: str | Path, **meta: Any) -> None:
        """Record an artifact of a run that has ended (an export made afterwards)."""
        with self._open(required=run_id) as db:
            found = self._find(db, run_id)["run_id"]
            insert_artifact(db, found, kind, self._stored(found, path), time.time(), meta)

    def _stored(self, run_id: str, path: str | Path) -> str:
        """A path as stored: relative to the run's directory where it lies inside, so that the output may move."""
        full, folder = Path(path).absolute(), (self.output / run_id).absolute()
        return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else str(full)

    # ------------------------------------------------------------------------------------------ reading

    def get(self, run_id: str) -> RunRecord:
        """The run with this id or unambiguous prefix; `latest` is the newest, however it ended.

        Raises:
            BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`.
        """
        with self._open(required=run_id) as db:
            return self._record(self._find(db, run_id))

    def trained(self, run_id: str) -> RunRecord:
        """As `get`, where a training or a session is meant: `latest` is the newest of them, of a session's runs the session.

        Raises:
            BpError: as `get`.
        """
        if run_id != LATEST:
            return self.get(run_id)
        with self._open(required=run_id) as db:
            newest = db.execute(
                "SELECT * FROM runs WHERE kind = 'multi-run' OR kind = 'train' AND NOT EXISTS "
                "(SELECT 1 FROM runs s WHERE s.run_id = runs.parent AND s.kind = 'multi-run') "
                "ORDER BY created_at DESC, run_id DESC LIMIT 1"
            ).fetchone()
            if newest is None:
                raise self._missing(run_id)
            return self._record(newest)

    def resumable(self, run_id: str, *, kind: str = "train") -> RunRecord:
        """The training, or the session, with this id or prefix, where something is left to do for it.

        Raises:
            BpError: `STATE_RUN_FINISHED` where it completed, `INPUT_RUN_KIND` where it is no training,
                `STATE_TOKENS_MISSING` where it ended before its data was read, and those of `get`.
        """
        record = self.get(run_id)
        if record.kind != kind:
            raise BpError(
                "INPUT_RUN_KIND",
                f"{record.run_id} is a job of kind {record.kind}: only a training or a session is resumed",
                f"backprop show-run {record.run_id}{self.flag}",
                details={"run_id": record.run_id, "kind": record.kind},
            )
        if record.status == "completed":
            left = record.delivered or record.path / "adapter"
            raise BpError(
                "STATE_RUN_FINISHED",
                f"{record.run_id} completed at step {record.step}: nothing is left to resume, and it stays as it is",
                f'backprop generate {shlex.quote(str(left))} "your question"',
                details={"run_id": record.run_id},
            )
        if record.started_at is None and record.status not in LIVE:
            raise BpError(
                "STATE_TOKENS_MISSING",
                f"run {record.run_id} ended ({record.status}) before its data was read: there is nothing to go on from",
                f"backprop replay {record.run_id}{self.flag}",
                details={"run_id": record.run_id},
            )
        return record

    def list(
        self, *, status: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[RunRecord]:
        """The recorded runs, newest first; those of one status (also `crashed`) or kind where asked."""
        with self._open() as db:
            if db is None:
                return []
            rows = db.execute("SELECT * FROM runs ORDER BY created_at DESC, run_id DESC")
            found: list[RunRecord] = []
            for row in rows:
                if (status and status_of(row) != status) or (kind and row["kind"] != kind):
                    continue
                found.append(self._record(row))
                if limit is not None and len(found) >= limit:
                    break
            return found

    def metrics(self, run_id: str, name: str, *, after: int = -1) -> list[tuple[int, float]]:
        """One metric as (step, value) in the order of steps; only steps past `after` (a cursor for followers)."""
        with self._open(required=run_id) as db:
            rows = db.execute(
                "SELECT step, value FROM metrics WHERE run_id=? AND name=? AND step>? ORDER BY step",
                (self._find(db, run_id)["run_id"], name, after),
            )
            return [(r["step"], math.nan if r["value"] is None else r["value"]) for r in rows]

    def metric_names(self, run_id: str) -> list[str]:
        """The names of the metrics of a run, sorted."""
        with self._open(required=run_id) as db:
            rows = db.execute(
                "SELECT DISTINCT name FROM metrics WHERE run_id=? ORDER BY name",
                (self._find(db, run_id)["run_id"],),
            )
            return [r["name"] for r in rows]

    def latest(self, run_id: str) -> dict[str, tuple[int, float]]:
        """The last (step, value) of every metric of a run."""
        with self._open(required=run_id) as db:
            rows = db.execute(
                "SELECT name, max(step) AS step, value FROM metrics WHERE run_id=? GROUP BY name ORDER BY name",
                (self._find(db, run_id)["run_id"],),
            )
            return {r["name"]: (r["step"], math.nan if r["value"] is None else r["value"]) for r in rows}

    def events(self, run_id: str, *, after: int = 0) -> list[Event]:
        """The audit trail of a run in the order written; only ids past `after`."""
        with self._open(required=run_id) as db:
            rows = db.execute(
                "SELECT * FROM events WHERE run_id=? AND id>? ORDER BY id",
                (self._find(db, run_id)["run_id"], after),
            )
            return [Event(**{**dict(r), "details": json.loads(r["details"])}) for r in rows]

    def artifacts(self, run_id: str, kind: str | None = None) -> list[Artifact]:
        """What a run made, oldest first, with absolute paths."""
        with self._open(required=run_id) as db:
            found = self._find(db, run_id)["run_id"]
            rows = db.execute("SELECT * FROM artifacts WHERE run_id=? ORDER BY time, kind, path", (found,))
            folder = (self.output / found).absolute()
            return [
                Artifact(found, r["kind"], folder / r["path"], r["time"], json.loads(r["meta"]))
                for r in rows
                if kind in (None, r["kind"])
            ]

    # ------------------------------------------------------------------------------------------ inside

    @contextlib.contextmanager
    def _open(self, *, create: bool = False, required: str | None = None) -> Iterator[Any]:
        """A connection for one call; None where there is no store yet and no run is required."""
        if not create and not self.path.exists():
            if required is not None:
                raise self._missing(required)
            yield None
            return
        with closing(runs_db.connect(self.path, timeout=self.timeout, create=create)) as db:
            try:
                yield db
            except sqlite3.Error as error:
                raise runs_db.coded(error, self.path) from error

    def _find(self, db: sqlite3.Connection, run_id: str) -> sqlite3.Row:
        run_id = storable(run_id)
        if run_id == LATEST:
            newest = db.execute("SELECT * FROM runs ORDER BY created_at DESC, run_id DESC LIMIT 1").fetchone()
            if newest is None:
                raise self._missing(run_id)
            return newest
        rows = db.execute(
            "SELECT * FROM runs WHERE substr(run_id, 1, ?) = ? ORDER BY run_id = ? DESC, created_at DESC LIMIT 6",
            (len(run_id), run_id, run_id),
        ).fetchall()
        exact = [r for r in rows if r["run_id"] == run_id]
        if not run_id or not rows:
            recent = db.execute("SELECT run_id FROM runs ORDER BY created_at DESC LIMIT 1000")
            raise self._missing(run_id, [row["run_id"] for row in recent])
        if not exact and len(rows) > 1:
            names = [r["run_id"] for r in rows]
            raise BpError(
                "INPUT_RUN_AMBIGUOUS",
                f"{run_id!r} begins {'more than 5' if len(names) > 5 else len(names)} run ids: {', '.join(names[:5])}",
                f"backprop show-run {names[0]} --output {self.output}",
                details={"run_ids": names},
            )
        return (exact or rows)[0]

    def _missing(self, run_id: str, known: Sequence[str] = ()) -> BpError:
        whole = sorted(self.output.glob(f"{glob.escape(run_id)}*/manifest.json")) if run_id else []
        if whole:
            return BpError(
                "INPUT_RUN_NOT_FOUND",
                f"{self.path} does not know run {whole[0].parent.name}, whose folder is there",
                f"python -m bp_core.runs.rebuild {shlex.quote(str(self.output))}",
                details={"run_id_prefix": run_id, "folder": str(whole[0].parent)},
            )
        begins = {name[: len(run_id)]: name for name in reversed(known)}
        near = difflib.get_close_matches(run_id, begins, 1, 0.75)
        meant = f"; did you mean {begins[near[0]]}?" if near else ""
        return BpError(
            "INPUT_RUN_NOT_FOUND",
            f"no run in {self.path} has an id that begins with {run_id!r}{meant}",
            f"backprop runs --output {self.output}",
            details={"run_id_prefix": run_id},
        )

    def _record(self, row: sqlite3.Row) -> RunRecord:
        values = {k: row[k] for k in row.keys() if k not in ("pid_started", "pid_space")}  # noqa: SIM118 - a Row iterates over values
        for key in ("config", "sources", "environment", "dataset", "base_model", "result", "progress"):
            values[key] = json.loads(values[key])
        return RunRecord(**{**values, "status": status_of(row)}, path=self.output / row["run_id"])
