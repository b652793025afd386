"""The record of every run of an output directory: what was asked, what happened, what came out.

- A run is one directory, `<output>/<run_id>/`, and rows in one SQLite file, `<output>/runs.db` (`runs_db`).
- Training writes through a `Run` (`run_writer`); everything else only reads, or leaves a `control` row.
- `manifest.json` (at the start) and `result.json` (at the end) in the run's directory carry the same facts, so
  that a run can be replayed on another machine and a damaged store rebuilt from its directories.
- Run ids sort by time and are readable: `20261121-073455-a1b2c3`, UTC. Any unambiguous prefix names a run.
- The status is honest: a run that says `running` while its process is gone is `crashed`.
- What is stored has its secrets redacted. No torch, no network: a UI and a CLI import this in milliseconds.

    store = RunStore(Path("output"))
    with store.create(config=…, sources=…, environment=…, dataset=…, base_model=…, seed=42) as run:
        run.metric(1, loss=2.31, learning_rate=2e-4)
    store.get("20261121").status        # "completed"
"""

from __future__ import annotations

import contextlib
import glob
import json
import math
import re
import secrets
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bp_core.errors import BpError
from bp_core.runs import schema as runs_db
from bp_core.runs.process import process_identity
from bp_core.runs.rows import (
    MANIFEST_VERSION,
    Artifact,
    Event,
    RunRecord,
    insert_artifact,
    is_live,
    iso,
    restore_row,
    status_of,
    unwritable,
)
from bp_core.support.files import dumps, plain, write_json
from bp_core.support.redact import redact

if TYPE_CHECKING:
    from bp_core.runs.writer import Run

Action = Literal["pause", "resume", "stop", "stop-and-save"]
ACTIONS: tuple[Action, ...] = ("pause", "resume", "stop", "stop-and-save")


class RunStore:
    """The runs of one output directory. Cheap to make; opens the file per call, so it may be shared by threads.

    Args:
        output: the directory that holds `runs.db` and the run directories. Nothing is created before `create`.
        timeout: seconds that a call waits for another process's lock.
    """

    def __init__(self, output: str | Path, *, timeout: float = 10.0) -> None:
        self.output = Path(output)
        self.path = self.output / runs_db.FILE_NAME
        self.timeout = timeout

    # ------------------------------------------------------------------------------------------ writing

    def create(
        self,
        kind: str = "train",
        *,
        config: Mapping[str, Any] | None = None,
        sources: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        dataset: Mapping[str, Any] | None = None,
        base_model: Mapping[str, Any] | None = None,
        seed: int | None = None,
        name: str = "",
        parent: str | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Begin a run: its directory, its `manifest.json`, its row. All of it or, on an error, none.

        Args:
            kind: what is run (`train`, `multi-run`, `eval`, …).
            config: the whole resolved configuration.
            sources: where each value of it came from (default, file, env, flag).
            environment: versions, hardware, operating system (`environment.collect()`).
            dataset: paths, counts, fingerprint.
            base_model: reference, revision, configuration hash.
            seed: of the run.
            name: a label of the user's.
            parent: the run that this one replays or continues from.
            run_id: its name; made from the time unless given.

        Raises:
            BpError: `CONFIG_INVALID_SETTING`, `INPUT_RUN_EXISTS` for a bad or taken id; `STATE_RUNS_CORRUPT`, `STATE_RUNS_LOCKED`, `STATE_RUNS_UNWRITABLE`, `RUNTIME_DISK_FULL`.
        """
        from bp_core.runs.writer import Run

        now = time.time()
        facts = {
            "config": config or {},
            "sources": sources or {},
            "environment": environment or {},
            "dataset": dataset or {},
            "base_model": base_model or {},
        }
        facts = {k: plain(v) if k == "sources" else redact(plain(v), needed=True) for k, v in facts.items()}
        if run_id is not None:
            self.check_new(run_id)
        try:
            run_id, folder = self._new_directory(now, run_id)
        except FileExistsError:
            raise self._taken(run_id or "") from None
        except OSError as error:
            raise unwritable(error, self.output) from error
        try:
            header = {
                "run_id": run_id,
                "kind": kind,
                "name": name,
                "created_at": iso(now),
                "seed": seed,
                "parent": parent,
            }
            write_json(folder / "manifest.json", {"schema_version": MANIFEST_VERSION, **header, **facts})
            with self._open(create=True) as db:
                restore_row(db, folder, live=True)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritable(error, folder) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        run = Run(self, run_id, folder)
        run.event("RUN_STARTED", f"{kind} run started", run_id=run_id, seed=seed, parent=parent)
        return run

    def check_new(self, run_id: str) -> None:
        """Refuse a chosen id that is no safe folder name, or that is taken.

        Raises:
            BpError: `CONFIG_INVALID_SETTING`, `INPUT_RUN_EXISTS`.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", run_id):
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"a run id is up to 64 letters, digits, - and _, not {run_id!r}",
                "add --run-id my-run-1 to the command",
            )
        if (self.output / run_id).exists():
            raise self._taken(run_id)
        with self._open() as db:
            if db is not None and db.execute("SELECT 1 FROM runs WHERE run_id=?", (run_id,)).fetchone():
                raise self._taken(run_id)

    def _taken(self, run_id: str) -> BpError:
        return BpError(
            "INPUT_RUN_EXISTS",
            f"{self.output} has a run {run_id} already",
            f"backprop show-run {run_id}{self.flag}",
            details={"run_id": run_id},
        )

    @property
    def flag(self) -> str:
        """` --output FOLDER` for a hint, "" where it is the default."""
        return "" if self.output == Path("output") else f" --output {shlex.quote(str(self.output))}"

    def _new_directory(self, now: float, chosen: str | None = None) -> tuple[str, Path]:
        self.output.mkdir(parents=True, exist_ok=True)
        if chosen is not None:
            (self.output / chosen).mkdir()
            return chosen, self.output / chosen
        while True:
            run_id = f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
            folder = self.output / run_id
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return run_id, folder

    def open(self, run_id: str, *, step: int | None = None) -> Run:
        """Continue a run: take it over, drop control requests left from before.

        Args:
            run_id: its id or an unambiguous prefix.
            step: the step that the resumed checkpoint stands at; metrics after it, of the part of the run that is
                done again, are removed.

        Raises:
            BpError: `STATE_RUN_ACTIVE` where a live process writes it; `INPUT_RUN_NOT_FOUND`,
                `INPUT_RUN_AMBIGUOUS`, and those of `create`.
        """
        from bp_core.runs.writer import Run

        here = process_identity()
        with self._open(required=run_id) as db:
            db.execute("BEGIN IMMEDIATE")  # from here on no second process can take the same run
            try:
                row = self._find(db, run_id)
                found = row["run_id"]
                if is_live(row) and (row["host"], row["pid_space"], row["pid"]) != (
                    here.host,
                    here.pid_space,
                    here.pid,
                ):
                    raise BpError(
                        "STATE_RUN_ACTIVE",
                        f"run {found} is being written by process {row['pid']} on {row['host']}",
                        f"backprop show-run {found} --output {self.output}",
                        retryable=True,
                        details={"run_id": found, "pid": row["pid"]},
                    )
                now = time.time()
                db.execute(
                    "UPDATE runs SET status='running', finished_at=NULL, heartbeat_at=?, host=?, pid_space=?, pid=?,"
                    " pid_started=?, step=coalesce(?, step) WHERE run_id=?",
                    (now, here.host, here.pid_space, here.pid, here.started, step, found),
                )
                db.execute("UPDATE control SET taken_at=? WHERE run_id=? AND taken_at IS NULL", (now, found))
                dropped = 0
                if step is not None:
                    dropped = db.execute(
                        "DELETE FROM metrics WHERE run_id=? AND step>?", (found, step)
                    ).rowcount
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        folder = self.output / found
        try:
            folder.mkdir(exist_ok=True)
            (folder / "result.json").unlink(missing_ok=True)  # it told the end of the part before
        except OSError as error:
            raise unwritable(error, folder) from error
        run = Run(self, found, folder, step=row["step"] if step is None else step)
        run.event(
            "RUN_RESUMED",
            f"resumed at step {run.step}",
            previous_status=status_of(row),
            metrics_dropped=dropped,
        )
        return run

    def request(self, run_id: str, action: Action) -> str:
        """Ask a live run to pause, resume, stop or stop and save; it obeys at its next step. Returns the full id.

        Raises:
            BpError: `STATE_RUN_NOT_ACTIVE` where nothing is running that could obey.
            ValueError: an unknown action.
        """
        if action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, not {action!r}")
        with self._open(required=run_id) as db:
            row = self._find(db, run_id)
            status = status_of(row)
            if not is_live(row):
                raise BpError(
                    "STATE_RUN_NOT_ACTIVE",
                    f"run {row['run_id']} is {status}: there is nothing to {action.split('-')[0]}",
                    f"backprop show-run {row['run_id']} --output {self.output}",
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
        """The run with this id or unambiguous prefix.

        Raises:
            BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`.
        """
        with self._open(required=run_id) as db:
            return self._record(self._find(db, run_id))

    def resumable(self, run_id: str) -> RunRecord:
        """The run with this id or prefix, where something is left to do for it.

        Raises:
            BpError: `STATE_RUN_FINISHED` where it completed, and those of `get`.
        """
        record = self.get(run_id)
        if record.status == "completed":
            adapter = record.path / "adapter"
            raise BpError(
                "STATE_RUN_FINISHED",
                f"run {record.run_id} completed at step {record.step}: nothing is left to resume, and it stays as it is",
                f'backprop generate {shlex.quote(str(adapter))} "your question"',
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
        rows = db.execute(
            "SELECT * FROM runs WHERE substr(run_id, 1, ?) = ? ORDER BY created_at DESC LIMIT 6",
            (len(run_id), run_id),
        ).fetchall()
        exact = [r for r in rows if r["run_id"] == run_id]
        if not run_id or not rows:
            raise self._missing(run_id)
        if not exact and len(rows) > 1:
            names = [r["run_id"] for r in rows]
            raise BpError(
                "INPUT_RUN_AMBIGUOUS",
                f"{run_id!r} begins {'more than 5' if len(names) > 5 else len(names)} run ids: {', '.join(names[:5])}",
                f"backprop show-run {names[0]} --output {self.output}",
                details={"run_ids": names},
            )
        return (exact or rows)[0]

    def _missing(self, run_id: str) -> BpError:
        whole = sorted(self.output.glob(f"{glob.escape(run_id)}*/manifest.json")) if run_id else []
        if whole:
            return BpError(
                "INPUT_RUN_NOT_FOUND",
                f"{self.path} does not know run {whole[0].parent.name}, whose folder is there",
                f"python -m bp_core.runs.rebuild {shlex.quote(str(self.output))}",
                details={"run_id_prefix": run_id, "folder": str(whole[0].parent)},
            )
        return BpError(
            "INPUT_RUN_NOT_FOUND",
            f"no run in {self.path} has an id that begins with {run_id!r}",
            f"backprop runs --output {self.output}",
            details={"run_id_prefix": run_id},
        )

    def _record(self, row: sqlite3.Row) -> RunRecord:
        values = {k: row[k] for k in row.keys() if k not in ("pid_started", "pid_space")}  # noqa: SIM118 - a Row iterates over values
        for key in ("config", "sources", "environment", "dataset", "base_model", "result"):
            values[key] = json.loads(values[key])
        return RunRecord(**{**values, "status": status_of(row)}, path=self.output / row["run_id"])


def export_jsonl(
    store: RunStore, *, status: str | None = None, run_ids: Sequence[str] = (), metrics: bool = True
) -> Iterator[str]:
    """Every run as one line of JSON: the record, its metrics as {name: [[step, value], …]}, events, artifacts."""
    records = [store.get(r) for r in run_ids] if run_ids else store.list(status=status)
    for record in records:
        data = {"schema_version": 1, **record.to_dict()}
        if metrics:
            data["metrics"] = {n: store.metrics(record.run_id, n) for n in store.metric_names(record.run_id)}
        data["events"] = [e.to_dict() for e in store.events(record.run_id)]
        data["artifacts"] = [a.to_dict() for a in store.artifacts(record.run_id)]
        yield dumps(data)
