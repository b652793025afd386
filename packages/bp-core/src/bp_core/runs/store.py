"""The record of every run of an output directory: what was asked, what happened, what came out.

- A run is one directory, `<output>/<run_id>/`, and rows in one SQLite file, `<output>/runs.db` (`runs.schema`).
- A job writes through its `Run` (`runs.writer`); everything else only reads (`runs.table`), or leaves a `control` row.
- `manifest.json` (from the start, renewed when more is known) and `result.json` (at the end) in the run's directory carry the same facts, so
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
import json
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bp_core.errors import BpError
from bp_core.runs.process import process_identity
from bp_core.runs.rows import (
    LATEST,
    MANIFEST_VERSION,
    RunRecord,
    Start,
    is_live,
    iso,
    restore_row,
    status_of,
    unwritable,
)
from bp_core.runs.table import RunTable
from bp_core.support.files import dumps, plain, storable, write_json
from bp_core.support.redact import redact, redact_text

if TYPE_CHECKING:
    from bp_core.runs.writer import Run


class RunStore(RunTable):
    """The runs of one output directory: the table, and how a run enters it. Cheap to make; may be shared by threads."""

    def create(
        self,
        kind: str = "train",
        *,
        status: Start = "running",
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
            kind: what is run (`train`, `export`, …).
            status: `queued` or `preparing` where the work does not begin yet; `Run.describe` then adds the facts
                that are not known, and `Run.begin` begins it.
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
        except OSError as error:
            if run_id is not None and (self.output / run_id).exists():  # taken since it was looked up
                raise self._taken(run_id) from None
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
                began = now if status == "running" else None
                restore_row(db, folder, live={"status": status, "started_at": began})
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise unwritable(error, folder) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        run = Run(self, run_id, folder, status=status, started_at=began)
        run.announce()
        if status != "running":
            run.flush()  # others look at it while it waits
        return run

    def rename(self, run_id: str, name: str, *, write: bool = True) -> str:
        """Give a run another name (its id stays); "" takes it back. Returns the full id; `write=False` only tells it.

        Raises:
            BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`, `STATE_RUNS_UNWRITABLE`.
        """
        name = redact_text(" ".join(storable(name).split()))[:120]
        with self._open(required=run_id) as db:
            found = self._find(db, run_id)["run_id"]
            if not write:
                return found
            manifest = self.output / found / "manifest.json"
            if manifest.is_file():
                write_json(manifest, {**json.loads(manifest.read_text(encoding="utf-8")), "name": name})
            db.execute("UPDATE runs SET name=? WHERE run_id=?", (name, found))
            return found

    def deletable(self, run_id: str) -> RunRecord:
        """The run that `delete` would delete.

        Raises:
            BpError: as `delete`.
        """
        with self._open(required=run_id) as db:
            self._refuse_live(row := self._find(db, run_id))
        return self.get(row["run_id"])

    def _refuse_live(self, row: sqlite3.Row) -> None:
        if is_live(row):
            raise BpError(
                "STATE_RUN_ACTIVE",
                f"run {row['run_id']} is {status_of(row)}",
                f"backprop stop {row['run_id']}{self.flag}",
                retryable=True,
                details={"run_id": row["run_id"]},
            )

    def delete(self, run_id: str) -> str:
        """Delete a run that has ended: its row, and its folder with all that lies in it. Returns the full id.

        What lies elsewhere (an export with a path of its own, a model in Ollama) stays.

        Raises:
            BpError: `STATE_RUN_ACTIVE` where it goes on, `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`,
                `STATE_RUNS_UNWRITABLE`.
        """
        with self._open(required=run_id) as db:
            db.execute("BEGIN IMMEDIATE")  # no process can take it up meanwhile
            try:
                row = self._find(db, run_id)
                found = row["run_id"]
                self._refuse_live(row)
                folder, gone = self.output / found, self.output / f".deleted-{found}"
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(gone)  # whole or not at all; then the row; then what it held
                for table in ("metrics", "events", "artifacts", "control", "runs"):
                    db.execute(f"DELETE FROM {table} WHERE run_id=?", (found,))
                db.execute("COMMIT")
            except OSError as error:
                raise unwritable(error, self.output / run_id) from error
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        shutil.rmtree(gone, ignore_errors=True)
        return found

    def check_new(self, run_id: str) -> None:
        """Refuse a chosen id that is no safe folder name, or that is taken.

        Raises:
            BpError: `CONFIG_INVALID_SETTING`, `INPUT_RUN_EXISTS`.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", run_id) or run_id == LATEST:
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"a run id is up to 64 letters, digits, - and _, and not {LATEST!r}; this is {run_id!r}",
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
                    "UPDATE runs SET status='running', started_at=coalesce(started_at, ?), finished_at=NULL,"
                    " heartbeat_at=?, host=?, pid_space=?, pid=?, pid_started=?, step=coalesce(?, step) WHERE run_id=?",
                    (now, now, here.host, here.pid_space, here.pid, here.started, step, found),
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
        run = Run(
            self,
            found,
            folder,
            step=row["step"] if step is None else step,
            started_at=row["started_at"] or now,
            progress=json.loads(row["progress"]),
        )
        run.event(
            "RUN_RESUMED",
            f"resumed at step {run.step}",
            previous_status=status_of(row),
            metrics_dropped=dropped,
        )
        return run


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
