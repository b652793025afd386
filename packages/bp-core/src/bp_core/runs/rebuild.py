"""Make a damaged run store anew from the run directories: `python -m bp_core.runs.rebuild OUTPUT`.

- The damaged file is kept, renamed; nothing is deleted.
- From each `<run>/manifest.json`, `result.json` and `metrics.jsonl` come the run, its end and its metrics. Events and
  artefact rows were only in the damaged file and are not remade; the files themselves are untouched.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bp_core.errors import BpError
from bp_core.runs import schema as runs_db
from bp_core.runs.rows import insert_event, restore_row, unwritable
from bp_core.runs.trackers import read_metrics


@dataclass(frozen=True)
class Rebuilt:
    """What was restored: run ids, the damaged file's new name (None where there was none), directories passed over."""

    runs: tuple[str, ...]
    kept: Path | None
    passed_over: tuple[str, ...]


def rebuild(output: str | Path) -> Rebuilt:
    """Set the store of an output directory aside and make it anew. End running trainings first.

    Raises:
        BpError: `STATE_RUNS_UNWRITABLE`, `RUNTIME_DISK_FULL`.
    """
    output = Path(output)
    target, fresh = output / runs_db.FILE_NAME, output / f".{runs_db.FILE_NAME}.rebuilt"
    restored: list[str] = []
    failed: list[str] = []
    kept = None
    try:
        for leftover in output.glob(f"{fresh.name}*"):
            leftover.unlink()
        with contextlib.closing(runs_db.connect(fresh, create=True)) as db:
            for manifest in sorted(output.glob("*/manifest.json")):
                db.execute("BEGIN")
                try:
                    run_id = restore_row(db, manifest.parent, live=None)
                    restore_metrics(db, run_id, manifest.parent / "metrics.jsonl")
                    insert_event(
                        db, run_id, 0, "STORE_REBUILT", "restored from the run's directory", time.time(), {}
                    )
                    db.execute("COMMIT")
                    restored.append(run_id)
                except (BpError, KeyError, ValueError, json.JSONDecodeError) as error:
                    db.execute("ROLLBACK")
                    failed.append(f"{manifest.parent.name}: {getattr(error, 'message', error)}")
            db.execute("PRAGMA journal_mode=DELETE")  # one file, so that one rename moves it
        if target.exists():
            kept = output / f"{target.name}.damaged-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
            os.replace(target, kept)  # noqa: PTH105 - see plain.write_atomic
        for side in ("-wal", "-shm"):
            target.with_name(target.name + side).unlink(missing_ok=True)
        os.replace(fresh, target)  # noqa: PTH105
    except OSError as error:
        raise unwritable(error, output) from error
    return Rebuilt(tuple(restored), kept, tuple(failed))


def restore_metrics(db: object, run_id: str, path: Path) -> None:
    """Insert the rows of a run's `metrics.jsonl`, where there is one."""
    if not path.is_file():
        return
    rows = []
    for row in read_metrics(path):
        step, at = row.pop("step"), row.pop("time", 0.0)
        for name, value in row.items():
            number = float("nan") if value is None else float(value)
            rows.append((run_id, name, step, None if math.isnan(number) else number, at))
    db.executemany("INSERT OR REPLACE INTO metrics(run_id, name, step, value, time) VALUES (?,?,?,?,?)", rows)  # type: ignore[attr-defined]
    if rows:
        db.execute("UPDATE runs SET step=max(step, ?) WHERE run_id=?", (max(r[2] for r in rows), run_id))  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: one argument, the output directory."""
    args = list(sys.argv[1:] if argv is None else argv)
    if len(args) != 1 or args[0] in ("-h", "--help"):
        sys.stderr.write("usage: python -m bp_core.runs.rebuild OUTPUT\n")
        return 0 if args and args[0] in ("-h", "--help") else 1
    try:
        done = rebuild(args[0])
    except BpError as error:
        sys.stderr.write(f"{error}\n\nhint: {error.hint}\n")
        return error.exit_code
    sys.stderr.write(f"{len(done.runs)} runs restored into {Path(args[0]) / runs_db.FILE_NAME}\n")
    if done.kept:
        sys.stderr.write(f"the old file is kept as {done.kept}\n")
    for line in done.passed_over:
        sys.stderr.write(f"passed over {line}\n")
    return 0 if not done.passed_over else 3


if __name__ == "__main__":
    raise SystemExit(main())
