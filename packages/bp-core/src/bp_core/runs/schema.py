"""The SQLite file under the run store: schema, connections, and SQLite's errors as coded ones.

- One file per output directory, `<output>/runs.db`, in WAL mode: readers never block the trainer, the trainer
  never blocks readers, and a process killed at any moment leaves a readable database.
- `synchronous=NORMAL`: a power cut may lose the last second, never the file; a killed process loses nothing
  that was committed.
- The schema's version is `PRAGMA user_version`; an older file is migrated in one transaction, a newer one refused.
- A connection belongs to one thread at a time and is closed by whoever opened it.
- NaN has no SQL value: SQLite stores it as NULL, and a NULL metric reads back as NaN.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from bp_core.errors import BpError
from bp_core.runs.rows import insert_event

FILE_NAME = "runs.db"
VERSION = 2

# Step n of the list brings a file of version n to n + 1. Version 2 records jobs that wait or prepare: when the work
# began is no longer when the row was made, and how far it is may be counted in other things than steps. A run of
# version 1 began with its row, and has its steps in its settings.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            run_id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,                 -- train, multi-run, eval, …
            name TEXT NOT NULL DEFAULT '',
            status TEXT NOT NULL,               -- `rows.STATUSES`
            created_at REAL NOT NULL,           -- seconds since the epoch, UTC, like every time here
            heartbeat_at REAL NOT NULL,
            finished_at REAL,
            step INTEGER NOT NULL DEFAULT 0,
            seed INTEGER,
            parent TEXT,                        -- the run that this one replays or continues from
            host TEXT NOT NULL,
            pid_space TEXT NOT NULL,            -- a container may have the host's name and its own process ids
            pid INTEGER NOT NULL,
            pid_started REAL,                   -- a pid is reused; with its start time it is not
            config TEXT NOT NULL,               -- JSON, like the next five
            sources TEXT NOT NULL,
            environment TEXT NOT NULL,
            dataset TEXT NOT NULL,
            base_model TEXT NOT NULL,
            result TEXT NOT NULL DEFAULT '{}'
        )""",
        "CREATE INDEX runs_by_time ON runs(created_at)",
        """CREATE TABLE metrics (
            run_id TEXT NOT NULL REFERENCES runs(run_id),
            name TEXT NOT NULL,
            step INTEGER NOT NULL,
            value REAL,                         -- NULL is NaN
            time REAL NOT NULL,
            PRIMARY KEY (run_id, name, step)
        ) WITHOUT ROWID""",
        """CREATE TABLE events (
            id INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL REFERENCES runs(run_id),
            time REAL NOT NULL,
            step INTEGER NOT NULL,
            code TEXT NOT NULL,
            message TEXT NOT NULL,
            details TEXT NOT NULL               -- JSON
        )""",
        "CREATE INDEX events_by_run ON events(run_id, id)",
        """CREATE TABLE artifacts (
            run_id TEXT NOT NULL REFERENCES runs(run_id),
            kind TEXT NOT NULL,                 -- adapter, merged, gguf, checkpoint, report, plot, …
            path TEXT NOT NULL,                 -- relative to the run directory where it lies inside it
            time REAL NOT NULL,
            meta TEXT NOT NULL,                 -- JSON
            PRIMARY KEY (run_id, kind, path)
        ) WITHOUT ROWID""",
        """CREATE TABLE control (
            id INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL REFERENCES runs(run_id),
            action TEXT NOT NULL,               -- pause, resume, stop, stop-and-save
            requested_at REAL NOT NULL,
            taken_at REAL                       -- when the run read it; NULL while it waits
        )""",
        "CREATE INDEX control_waiting ON control(run_id, id) WHERE taken_at IS NULL",
    ),
    (
        "ALTER TABLE runs ADD COLUMN started_at REAL",  # NULL until the work begins
        "ALTER TABLE runs ADD COLUMN progress TEXT NOT NULL DEFAULT '{}'",  # JSON: done, total, unit
        """UPDATE runs SET started_at = created_at, progress = json_object(
            'done', step,
            'total', CASE WHEN json_valid(config) THEN json_extract(config, '$.training.steps') END,
            'unit', 'steps')""",
    ),
)
# What each step of the list did to the rows that were there, told in their events.
DID = ("", "the work began when the row was made; progress counts its steps")


def connect(path: Path, *, timeout: float = 10.0, create: bool = False) -> sqlite3.Connection:
    """Open the store in autocommit mode with its schema brought up to date.

    Args:
        path: the database file.
        timeout: seconds to wait for a lock before `STATE_RUNS_LOCKED`.
        create: make the file where there is none.

    Raises:
        BpError: `STATE_RUNS_CORRUPT`, `STATE_RUNS_TOO_NEW`, `STATE_RUNS_LOCKED`, `STATE_RUNS_UNWRITABLE`,
            `RUNTIME_DISK_FULL`.
    """
    uri = f"{path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}"
    try:
        # One connection serves a writer thread and its owner, each under a lock of ours.
        db = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise coded(error, path) from error
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode=WAL")  # a file system without shared memory keeps its own mode
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA foreign_keys=ON")
        _migrate(db, path)
    except sqlite3.Error as error:
        db.close()
        raise coded(error, path) from error
    except BaseException:
        db.close()
        raise
    return db


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _version(db, path) == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        version = _version(db, path)  # read again: another process may have been faster
        for number, statements in enumerate(MIGRATIONS[version:], version):
            for statement in statements:
                db.execute(statement)
            for row in db.execute("SELECT run_id, step FROM runs").fetchall():
                told = f"{path.name} went from schema version {number} to {number + 1}: {DID[number]}"
                insert_event(db, row["run_id"], row["step"], "STORE_MIGRATED", told, time.time(), {})
        db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection, path: Path) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise BpError(
            "STATE_RUNS_TOO_NEW",
            f"{path} has schema version {version}; this version of bp-core reads up to {VERSION}",
            "pip install --upgrade bp-core",
        )
    return version


def coded(error: sqlite3.Error, path: Path) -> BpError:
    """SQLite's error as a coded one, by its extended error name."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return BpError(
            "STATE_RUNS_LOCKED",
            f"another process holds {path} locked",
            f"backprop runs --output {path.parent}",
            retryable=True,
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return BpError(
            "STATE_RUNS_CORRUPT",
            f"{path} is damaged or no run store: {error}",
            f"python -m bp_core.runs.rebuild {path.parent}",
        )
    if name.startswith("SQLITE_FULL"):
        return BpError(
            "RUNTIME_DISK_FULL", f"no room left on the disk of {path}", f"df -h {path.parent}", retryable=True
        )
    return BpError(
        "STATE_RUNS_UNWRITABLE",
        f"{path} cannot be opened or written: {error}",
        f"ls -ld {path.parent} {path}",
        retryable=True,
        details={"sqlite": name},
    )
