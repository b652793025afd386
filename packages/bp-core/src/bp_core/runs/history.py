"""Runs that Backpropagate 1.x recorded in `run_history.json`, taken into the run store.

- Each record becomes a run's folder (`manifest.json`, `result.json`, `metrics.jsonl`) and its row, as if it had been made
  here; the whole record stays in the result under `imported`, so that nothing of it is lost.
- Settings that are known here keep their meaning under their names here; the others stay in `imported` alone.
- Its loss history has at most 100 points without steps: they are laid evenly over the run's steps.
- A run that is in the store already is left as it is; a record that cannot be read is told and costs no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bp_core.errors import BpError
from bp_core.runs import schema as runs_db
from bp_core.runs.rebuild import restore_metrics
from bp_core.runs.rows import LATEST, MANIFEST_VERSION, insert_event, iso, restore_row, seconds, unwritable
from bp_core.runs.store import RunStore
from bp_core.settings.knobs import KEYWORDS, group_of, knob_of
from bp_core.support.files import plain, write_atomic, write_json
from bp_core.support.redact import redact

KINDS = {"single_run": "train", "multi_run": "multi-run"}
STATUSES = {"completed": "completed", "failed": "failed", "running": "interrupted"}


@dataclasses.dataclass(frozen=True)
class Imported:
    """What was taken in: run ids; those that were there already; records passed over, with the reason."""

    runs: tuple[str, ...]
    there: tuple[str, ...]
    passed_over: tuple[str, ...]


def import_history(store: RunStore, file: Path, *, write: bool = True) -> Imported:
    """Take the runs of a `run_history.json` into a store; `write=False` only tells which.

    Raises:
        BpError: `INPUT_HISTORY_INVALID` where the file is no such history; those of `RunStore.create`.
    """
    taken: list[str] = []
    there: list[str] = []
    passed: list[str] = []
    for at, record in enumerate(_records(file), 1):
        try:
            run_id, manifest, end, metrics = _translated(record)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            passed.append(f"record {at}: {error}")
            continue
        if (store.output / run_id).exists():
            there.append(run_id)
            continue
        if write:
            _write(store, run_id, manifest, end, metrics, file.name)
        taken.append(run_id)
    return Imported(tuple(taken), tuple(there), tuple(passed))


def _records(file: Path) -> Iterator[Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(file, str(error)) from None
    if isinstance(data, Mapping):  # of one of several shapes: {"runs": […]}, or run id → record
        listed = next(
            (data[k] for k in ("runs", "history", "records") if isinstance(data.get(k), list)), None
        )
        data = (
            listed
            if listed is not None
            else [{"run_id": k, **v} for k, v in data.items() if isinstance(v, Mapping)]
        )
    if not isinstance(data, list) or not data:
        raise _invalid(file, "it lists no runs")
    yield from data


def _invalid(file: Path, why: str) -> BpError:
    return BpError("INPUT_HISTORY_INVALID", f"{file} is no run history: {why}", f"head -c 300 {file}")


def _translated(record: Any) -> tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Run id, manifest, result and metrics of one record."""
    if not isinstance(record, Mapping):
        raise ValueError(f"is no object but {type(record).__name__}")
    run_id = str(record["run_id"])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", run_id) or run_id == LATEST:
        raise ValueError(f"{run_id!r} is no run id")
    made = _time(record.get("started_at") or record.get("timestamp"))
    if made is None:
        raise ValueError("it has neither started_at nor timestamp")
    duration = record.get("duration_seconds")
    ended = _time(record.get("completed_at"))
    if ended is None:
        ended = made + (
            float(duration) if isinstance(duration, int | float) and math.isfinite(duration) else 0.0
        )
    given = dict(record.get("hyperparameters") or {})
    told = record.get("steps")
    steps = told if isinstance(told, int) else 0
    if isinstance(record.get("model_name"), str):
        given["model"] = record["model_name"]
    if isinstance(record.get("dataset_info"), str):
        given["data"] = [record["dataset_info"]]
    config = _config(given)
    losses = [v for v in record.get("loss_history") or [] if isinstance(v, int | float)]
    last = max(steps, len(losses))
    metrics = [
        {"step": max(1, round((i + 1) * last / len(losses))), "time": made, "loss": float(loss)}
        for i, loss in enumerate(losses)
    ]
    manifest = {
        "schema_version": MANIFEST_VERSION,
        "run_id": run_id,
        "kind": KINDS.get(str(record.get("session_kind", "single_run")), "train"),
        "name": "",
        "created_at": iso(made),
        "seed": given.get("seed") if isinstance(given.get("seed"), int) else None,
        "parent": None,
        "config": config,
        "sources": {f"{g}.{n}": "imported" for g, values in config.items() for n in values},
        "environment": {},
        "dataset": {"fingerprint": record.get("dataset_hash")} if record.get("dataset_hash") else {},
        "base_model": {"ref": record.get("model_name", "")},
    }
    end = {
        "schema_version": 1,
        "run_id": run_id,
        "status": STATUSES.get(str(record.get("status")), "interrupted"),
        "step": last,
        "started_at": iso(made),
        "finished_at": iso(ended),
        "result": {
            "train_loss": record.get("final_loss"),
            "error": record.get("failure_reason") or "",
            "imported": record,
        },
    }
    return run_id, redact(plain(manifest), needed=True), redact(plain(end)), metrics


def _time(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    moment = datetime.fromisoformat(str(value))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _config(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that are known here, by group and name; a value that is not allowed here is left out."""
    config: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        name = KEYWORDS.get(key)
        if name is None or value is None:
            continue
        with contextlib.suppress(ValueError):
            config.setdefault(group_of(name), {})[name] = knob_of(name).read(value)
    return {group: values for group, values in config.items() if values}


def _write(
    store: RunStore,
    run_id: str,
    manifest: Mapping[str, Any],
    end: Mapping[str, Any],
    metrics: list[dict[str, Any]],
    source: str,
) -> None:
    folder = store.output / run_id
    try:
        folder.mkdir(parents=True)
        write_json(folder / "manifest.json", manifest)
        write_json(folder / "result.json", end)
        write_atomic(folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in metrics))
        with contextlib.closing(runs_db.connect(store.path, timeout=store.timeout, create=True)) as db:
            db.execute("BEGIN IMMEDIATE")
            restore_row(db, folder, live=None)
            restore_metrics(db, run_id, folder / "metrics.jsonl")
            made = seconds(str(manifest["created_at"]))
            insert_event(db, run_id, 0, "RUN_IMPORTED", f"taken from {source}", made, {})
            db.execute("COMMIT")
    except sqlite3.Error as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise runs_db.coded(error, store.path) from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise unwritable(error, folder) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
