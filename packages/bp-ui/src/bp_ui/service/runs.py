"""Runs as the pages and the API read them: plain data from the store, requests to it, storage of ended ones."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.jobs import Jobs, tail
from bp_ui.service.places import Places

LOG_BYTES = 256 * 1024


class Runs:
    """The runs of the output folder.

    Args:
        places: the folders of the server.
        jobs: what this server started.
    """

    def __init__(self, places: Places, jobs: Jobs) -> None:
        self.places, self.jobs = places, jobs

    @property
    def store(self) -> Any:
        """The store of the output folder."""
        from bp_core.runs.store import RunStore

        return RunStore(self.places.output)

    def list(
        self, *, status: str | None = None, kind: str | None = None, text: str = "", limit: int = 200
    ) -> list[dict[str, Any]]:
        """Runs, newest first; those that start and have no row yet come before them.

        Args:
            status: only these; `live` for all that go on.
            kind: only these.
            text: only those whose id, name, model or kind holds it.
            limit: most of them.
        """
        from bp_core.runs.rows import LIVE

        found = [
            {
                "run_id": j.run_id,
                "kind": j.kind,
                "status": "starting",
                "name": "",
                "model": "",
                "created_at": j.began,
            }
            for j in self.jobs.starting()
            if j.process.poll() is None
        ]
        wanted = None if status == "live" else status
        for record in self.store.list(
            status=wanted, kind=kind, limit=None if text or status == "live" else limit
        ):
            if status == "live" and record.status not in LIVE:
                continue
            row = brief(record)
            if text and text.lower() not in " ".join(map(str, row.values())).lower():
                continue
            found.append(row)
            if len(found) >= limit:
                break
        return found

    def get(self, run_id: str) -> dict[str, Any]:
        """One run whole: record, latest metrics, events, artifacts.

        Raises:
            BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`; the refusal of a job that never had a row.
        """
        if refused := self.jobs.refusal(run_id):
            try:
                self.store.get(run_id)
            except Exception as error:
                if getattr(error, "code", "") == "INPUT_RUN_NOT_FOUND":
                    raise refused from None
                raise
        if self.jobs.is_starting(run_id) and run_id in {j.run_id for j in self.jobs.starting()}:
            return {
                "run_id": run_id,
                "status": "starting",
                "kind": "",
                "events": [],
                "artifacts": [],
                "latest": {},
            }
        store = self.store
        record = store.get(run_id)
        return {
            **record.to_dict(),
            **brief(record),
            "path": str(record.path),
            "latest": {n: [s, finite(v)] for n, (s, v) in store.latest(record.run_id).items()},
            "events": [e.to_dict() for e in store.events(record.run_id)],
            "artifacts": [a.to_dict() for a in store.artifacts(record.run_id)],
        }

    def has_checkpoint(self, run_id: str) -> bool:
        """Whether a run has a complete checkpoint."""
        return any((self.places.output / run_id / "checkpoints").glob("step-*/manifest.json"))

    def metrics(
        self, run_id: str, after: dict[str, int] | None = None
    ) -> dict[str, list[list[float | None]]]:
        """Every metric as [[step, value], …]; only steps past `after[name]`."""
        store, after = self.store, after or {}
        found = {}
        for name in store.metric_names(run_id):
            points = store.metrics(run_id, name, after=after.get(name, -1))
            if points:
                found[name] = [[step, finite(value)] for step, value in points]
        return found

    def log(self, run_id: str) -> str:
        """The end of what a run logged and printed."""
        record = self.store.get(run_id)
        printed = tail(self.jobs.file(record.run_id, "err"), LOG_BYTES)
        logged = "\n".join(map(readable, tail(record.path / "run.log", LOG_BYTES).splitlines()))
        return "\n".join(part.rstrip() for part in (printed, logged) if part.strip())

    def ask(self, run_id: str, action: str) -> str:
        """Ask a live run to pause, resume, stop or stop-and-save; a stopped one to go on. Returns its id.

        Raises:
            BpError: `INPUT_UI_REQUEST` for another action, those of `RunTable.request`.
        """
        from bp_core.runs.rows import ACTIONS, LIVE

        if action not in ACTIONS:
            raise BpError(
                "INPUT_UI_REQUEST", f"{action!r} is none of {', '.join(ACTIONS)}", "backprop stop --help"
            )
        record = self.store.get(run_id)
        if action == "resume" and record.status not in LIVE:
            return self.jobs.resume(record.run_id)
        return self.store.request(run_id, action)

    def replay(self, run_id: str, overrides: Mapping[str, Any], *, new_id: str | None = None) -> str:
        """Train again with the settings of a run, some of them changed; returns the new run's id.

        Raises:
            BpError: those of `bp_core.runs.replay.replay`; `INPUT_UI_REQUEST`, `INPUT_UI_PATH_FORBIDDEN` for a setting
                that a browser may not choose.
        """
        from bp_core.runs.replay import replay
        from bp_merge.common import knobs

        from bp_ui.service.forms import NOT_HERE, confined, train_groups

        record = self.store.get(run_id)
        names = {
            a: k.name for cls in train_groups().values() for k in knobs(cls) for a in (k.name, *k.keywords)
        }
        checked = {}
        for name, value in overrides.items():
            key = names.get(name.replace("-", "_"), name)
            if key in NOT_HERE:
                raise BpError(
                    "INPUT_UI_REQUEST", f"{name} is not for a browser to choose", "backprop replay --help"
                )
            checked[name] = confined(key, str(value), self.places)
        replay(record.run_id, output=self.places.output, overrides=checked)  # refused before anything starts
        return self.jobs.replay(record.run_id, checked, new_id=new_id)

    def rename(self, run_id: str, name: str) -> str:
        """Give a run a name beside its id; returns the id."""
        return self.store.rename(run_id, name)

    def delete(self, run_ids: Sequence[str]) -> list[str]:
        """Delete ended runs with all that their folders hold; returns their ids.

        Raises:
            BpError: `STATE_RUN_ACTIVE` where one goes on: none is deleted then.
        """
        return [self.store.delete(record.run_id) for record in self._ended(run_ids)]

    def _ended(self, run_ids: Sequence[str]) -> list[Any]:
        """The records of runs that have all ended.

        Raises:
            BpError: `STATE_RUN_ACTIVE` where one goes on.
        """
        from bp_core.runs.rows import LIVE

        records = [self.store.get(r) for r in run_ids]
        for record in records:
            if record.status in LIVE:
                raise BpError(
                    "STATE_RUN_ACTIVE",
                    f"run {record.run_id} is {record.status}",
                    f"backprop stop {record.run_id}",
                )
        return records

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """What differs between two runs."""
        from bp_core.runs.diff import diff

        return diff(self.store, a, b).to_dict()

    def storage(self) -> list[dict[str, Any]]:
        """What ended runs hold on the disk, largest first: bytes of checkpoints, of exports, of all."""
        from bp_core.runs.rows import LIVE

        rows = []
        for record in self.store.list():
            if record.status in LIVE or not record.path.is_dir():
                continue
            parts = {p: size_of(record.path / p) for p in ("checkpoints", "exports")}
            rows.append(
                {"run_id": record.run_id, "status": record.status, **parts, "all": size_of(record.path)}
            )
        return sorted(rows, key=lambda r: -r["all"])

    def clean(self, run_ids: Sequence[str], part: str) -> int:
        """Delete the checkpoints or exports of ended runs; returns the bytes freed.

        Raises:
            BpError: `INPUT_UI_REQUEST` for another part, `STATE_RUN_ACTIVE` for a run that goes on.
        """
        if part not in ("checkpoints", "exports"):
            raise BpError("INPUT_UI_REQUEST", f"{part!r} is neither checkpoints nor exports", "backprop runs")
        freed = 0
        for record in self._ended(run_ids):
            folder = (record.path / part).resolve()
            if folder.is_dir() and self.places.output in folder.parents:
                freed += size_of(folder)
                shutil.rmtree(folder)
        return freed

    def artifact(self, run_id: str, name: str) -> Path:
        """A file of a run that may be downloaded.

        Raises:
            BpError: `INPUT_UI_NAME` where the run has no such file.
        """
        folder = self.store.get(run_id).path.resolve()
        path = (folder / name).resolve()
        if folder not in path.parents or not path.is_file():
            raise BpError(
                "INPUT_UI_NAME", f"run {run_id} has no file {name[:80]!r}", f"backprop show-run {run_id}"
            )
        return path


def brief(record: Any) -> dict[str, Any]:
    """One line of a run."""
    result, progress = record.result, record.progress
    done, total = progress.get("done", record.step), progress.get("total")
    return {
        "run_id": record.run_id,
        "kind": record.kind,
        "name": record.name,
        "status": record.status,
        "model": str(record.base_model.get("ref", "")),
        "method": record.config.get("method", {}).get("method", ""),
        "created_at": record.created_at,
        "seconds": record.seconds,
        "step": record.step,
        "done": done,
        "total": total,
        "unit": progress.get("unit", ""),
        "share": min(1.0, done / total) if total else None,
        "loss": finite(result.get("train_loss")),
        "heldout_loss": finite(result.get("heldout_loss_after")),
        "error": str(result.get("error") or ""),
        "parent": record.parent or "",
    }


def readable(line: str) -> str:
    """A line of run.log as a person reads it.

    >>> readable('{"time": "2026-11-28T03:57:52.927Z", "level": "info", "event": "begun", "code": "RUN_STARTED"}')
    '03:57:52 RUN_STARTED begun'
    """
    try:
        told = json.loads(line)
        parts = [str(told["time"])[11:19], told.get("code", ""), str(told["event"])]
    except (ValueError, KeyError, TypeError):
        return line
    return " ".join(p for p in parts if p)


def finite(value: Any) -> float | None:
    """A number that JSON has, else None."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; links are not followed."""
    if not folder.is_dir():
        return 0
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
