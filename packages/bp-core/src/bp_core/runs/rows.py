"""What one row of the run store means: records, events, artifacts, manifests, and the status that is honest.

- A stored `running` is believed only while the process that wrote it lives; else the run is `crashed`.
- A run's directory carries the same facts as its row (`manifest.json`, `result.json`), so either restores the other.
- What is stored has its secrets redacted here, at the one place where rows are made.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bp_core.errors import BpError
from bp_core.runs.process import process_alive, process_identity
from bp_core.support.files import dumps, plain, storable
from bp_core.support.redact import redact, redact_text

# As stored. `crashed` is derived: it is what a dead process could not write.
BEFORE = ("queued", "preparing")  # waits for the card; reads data and decides
LIVE = (*BEFORE, "running", "paused")
ENDS = ("completed", "stopped", "failed", "interrupted")
STATUSES = (*LIVE, *ENDS)
LATEST = "latest"  # stands for the id of the newest run
PHASE = "pre-training"  # kind of the run that taught another its form, and is nothing by itself
Start = Literal["queued", "preparing", "running"]

# What another process may ask of a live run.
Action = Literal["pause", "resume", "stop", "stop-and-save"]
ACTIONS: tuple[Action, ...] = ("pause", "resume", "stop", "stop-and-save")

# Seconds. The writer beats every 5 s in its own thread. Where the process can be looked up it is; on another
# host or in another container only silence tells.
SILENT_AFTER = 300.0

MANIFEST_VERSION = 1
FACTS = ("config", "sources", "environment", "dataset", "base_model")


def delivered(run: Path) -> Path | None:
    """What a run's folder holds as its outcome: the adapter, or the whole model; None where it left neither."""
    found = ((run / "adapter", "adapter_config.json"), (run / "model", "config.json"))
    return next((folder for folder, mark in found if (folder / mark).is_file()), None)


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """One run, or another job, as recorded. Times are seconds since the epoch, UTC.

    Attributes:
        kind: what the job does: train, export, …
        created_at: when the row was made; it may have waited or read data after that.
        started_at: when its work began; None where it never did.
        progress: `done`, `total` and `unit` (steps, bytes, …), as far as they are known.
        path: its folder.
    """

    run_id: str
    kind: str
    name: str
    status: str
    created_at: float
    started_at: float | None
    heartbeat_at: float
    finished_at: float | None
    step: int
    seed: int | None
    parent: str | None
    host: str
    pid: int
    config: dict[str, Any]
    sources: dict[str, Any]
    environment: dict[str, Any]
    dataset: dict[str, Any]
    base_model: dict[str, Any]
    result: dict[str, Any]
    progress: dict[str, Any]
    path: Path

    @property
    def delivered(self) -> Path | None:
        """The directory of the adapter, or of the whole model, that it left; None where it left neither."""
        return delivered(self.path)

    @property
    def seconds(self) -> float:
        """Wall time of the work, to its end or to the last sign of life; of the waiting where it never began."""
        return (self.finished_at or self.heartbeat_at) - (self.started_at or self.created_at)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data, times as ISO 8601 in UTC."""
        data = plain(self)
        for key in ("created_at", "started_at", "heartbeat_at", "finished_at"):
            data[key] = iso(data[key])
        return {**data, "seconds": round(self.seconds, 3)}


@dataclasses.dataclass(frozen=True)
class Event:
    """One entry of a run's audit trail."""

    id: int
    run_id: str
    time: float
    step: int
    code: str
    message: str
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {**plain(self), "time": iso(self.time)}


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A file or directory that a run made."""

    run_id: str
    kind: str
    path: Path
    time: float
    meta: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {**plain(self), "time": iso(self.time), "exists": self.path.exists()}


def seconds(text: str) -> float:
    """The inverse of `iso`."""
    return datetime.fromisoformat(text).timestamp()


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as `2026-11-21T07:34:55.123Z`."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_live(row: sqlite3.Row) -> bool:
    """Whether a process writes this run now (a run that ended as `paused` is not live)."""
    return row["finished_at"] is None and status_of(row) in LIVE


def status_of(row: sqlite3.Row) -> str:
    """The stored status, or `crashed` where a live one has lost its process."""
    if row["status"] not in LIVE or row["finished_at"] is not None:
        return row["status"]
    here = process_identity()
    if (row["host"], row["pid_space"]) == (here.host, here.pid_space):
        return row["status"] if process_alive(row["pid"], row["pid_started"]) else "crashed"
    return "crashed" if time.time() - row["heartbeat_at"] > SILENT_AFTER else row["status"]


def restore_row(db: sqlite3.Connection, folder: Path, *, live: Mapping[str, Any] | None) -> str:
    """Insert a run's row from its directory (`manifest.json`, and `result.json` where it ended). Returns its id.

    Args:
        db: a connection.
        folder: the run's directory.
        live: columns (`status`, `started_at`, `progress`) of a run that the present process is writing; without
            them its end is read from `result.json`, and a run without one counts as interrupted.

    Raises:
        BpError: `INPUT_MANIFEST_INVALID`.
    """
    manifest = read_manifest(folder / "manifest.json")
    created = seconds(manifest["created_at"])
    end: dict[str, Any] = {}
    if live is None and (folder / "result.json").is_file():
        end = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    finished = seconds(end["finished_at"]) if end else created if live is None else None
    # an end written before `started_at` was recorded is that of a run that began with its row
    began = seconds(end["started_at"]) if end.get("started_at") else None if "started_at" in end else created
    here = process_identity()
    row = {
        **{k: manifest[k] for k in ("run_id", "kind", "name", "seed", "parent")},
        "status": end.get("status", "interrupted"),
        "created_at": created,
        "started_at": began,
        "heartbeat_at": time.time() if finished is None else finished,
        "finished_at": finished,
        "step": end.get("step", 0),
        "host": here.host,
        "pid_space": here.pid_space,
        "pid": 0 if live is None else here.pid,
        "pid_started": None if live is None else here.started,
        **{k: dumps(manifest[k]) for k in FACTS},
        "result": dumps(end.get("result", {})),
        "progress": dumps(end.get("progress", {})),
        **(live or {}),
    }
    db.execute(
        f"INSERT INTO runs({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values())
    )
    return manifest["run_id"]


def read_manifest(path: Path) -> dict[str, Any]:
    """A run's `manifest.json`, checked.

    Raises:
        BpError: `INPUT_MANIFEST_INVALID`.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = [k for k in ("schema_version", "run_id", "created_at", *FACTS) if k not in data]
        problem = f"it lacks {', '.join(missing)}" if missing else ""
        if not missing and data["schema_version"] > MANIFEST_VERSION:
            problem = f"its schema_version {data['schema_version']} is newer than {MANIFEST_VERSION}"
    except (OSError, ValueError, TypeError) as error:
        data, problem = {}, str(error)
    if problem:
        raise BpError(
            "INPUT_MANIFEST_INVALID", f"{path} is no readable run manifest: {problem}", f"cat {path}"
        )
    return {"kind": "train", "name": "", "seed": None, "parent": None, **data}


def insert_event(
    db: sqlite3.Connection,
    run_id: str,
    step: int,
    code: str,
    message: str,
    at: float,
    details: Mapping[str, Any],
) -> None:
    """Add one event row, redacted."""
    db.execute(
        "INSERT INTO events(run_id, time, step, code, message, details) VALUES (?,?,?,?,?,?)",
        (run_id, at, step, code, redact_text(storable(str(message))), dumps(redact(plain(details)))),
    )


def insert_artifact(
    db: sqlite3.Connection, run_id: str, kind: str, path: str, at: float, meta: Mapping[str, Any]
) -> None:
    """Add one artifact row, or renew it."""
    db.execute(
        "INSERT OR REPLACE INTO artifacts(run_id, kind, path, time, meta) VALUES (?,?,?,?,?)",
        (run_id, kind, storable(path), at, dumps(redact(plain(meta)))),
    )


def refusal(error: Exception, path: Path) -> BpError | None:
    """The coded error of a disk that refused a write, whoever wrote; None where `error` is something else.

    safetensors and tokenizers, written in Rust, tell the system's errno only in their text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(found[1])
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM):
        return unwritable(OSError(number, os.strerror(number)), path)
    return None


def unwritable(error: OSError, path: Path) -> BpError:
    """An operating system's refusal to write, as a coded error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BpError("RUNTIME_DISK_FULL", f"no room left to write {path}", f"df -h {path}", retryable=True)
    return BpError(
        "STATE_RUNS_UNWRITABLE", f"cannot write {path}: {error.strerror or error}", f"ls -ld {path}"
    )


def refuse_no_folder(output: Path) -> None:
    """Refuse an output that is there and is no folder.

    Raises:
        BpError: `STATE_RUNS_UNWRITABLE`.
    """
    if output.exists() and not output.is_dir():
        raise unwritable(NotADirectoryError(errno.ENOTDIR, "it is no folder"), output)
