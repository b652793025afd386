"""What explains a run to somebody else, in one zip: no weights, no rows of data, no secret.

- `run.json` (record: settings with their sources, dataset, base model, environment of then, result), `run_events.json`
  (the audit trail), `metrics.json`, `artifacts.json`, `rejections.json` (which lines were left out and why, without their
  text), `run.log`, `rewards.json` of a run by rewards, `failure_clusters.json` where evaluations of the run left any,
  `environment.json` (of now), `bundle.json` (what is in it, and what was left out with the reason).
- Every text passes `redact` again, whatever was redacted when it was stored; the home folder shows as `~`.
- The zip is written whole or not at all.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bp_core.errors import BpError
from bp_core.runs.rows import iso, unwritable
from bp_core.runs.store import RunStore
from bp_core.support.environment import collect
from bp_core.support.files import dumps, plain, write_atomic
from bp_core.support.redact import environment_secrets, redact, redact_text

LOG_BYTES = 5_000_000  # of the end of a log; a longer one is cut at its beginning, told


class Bundle(NamedTuple):
    """A bundle before it is written: the zip's path, and the text of each file in it."""

    path: Path
    run_id: str
    files: dict[str, str]

    def write(self) -> int:
        """Write the zip, whole or not at all; returns its bytes.

        Raises:
            BpError: `RUNTIME_DISK_FULL`, `STATE_RUNS_UNWRITABLE`.
        """
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in sorted(self.files.items()):
                archive.writestr(f"{self.run_id}/{name}", text)
        try:
            write_atomic(self.path, packed.getvalue())
        except OSError as error:
            raise unwritable(error, self.path.parent) from error
        return packed.tell()


def support_bundle(store: RunStore, run_id: str | None, to: Path | None = None) -> Path:
    """Gather the bundle of a run and write it; returns the zip's path.

    Raises:
        BpError: as `gather` and `Bundle.write`.
    """
    made = gather(store, run_id, to)
    made.write()
    return made.path


def gather(store: RunStore, run_id: str | None, to: Path | None = None) -> Bundle:
    """The bundle of a run, to be looked at or written.

    Args:
        store: where the run is recorded.
        run_id: its id or a prefix; None is the newest run, failed ones included.
        to: the zip; `support-RUN.zip` in the current folder unless given.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`; `INPUT_OUTPUT_EXISTS` where the zip is there.
    """
    if run_id is None:
        newest = store.list(limit=1)
        if not newest:
            raise BpError(
                "INPUT_RUN_NOT_FOUND", f"no run is recorded in {store.path}", f"backprop runs{store.flag}"
            )
        run_id = newest[0].run_id
    record = store.get(run_id)
    to = to or Path(f"support-{record.run_id}.zip")
    if to.exists():
        raise BpError(
            "INPUT_OUTPUT_EXISTS",
            f"{to} is there already",
            f"backprop support-bundle {record.run_id}{store.flag} --to new-bundle.zip",
        )
    left_out: dict[str, str] = {"weights, tokens and rows of data": "never part of a bundle"}
    files = {name: _safe(content) for name, content in _files(store, record.run_id, left_out)}
    index = {
        "schema_version": 1,
        "run_id": record.run_id,
        "status": record.status,
        "made_at": iso(time.time()),
        "files": sorted([*files, "bundle.json"]),
        "left_out": left_out,
    }
    files["bundle.json"] = _safe(index)
    return Bundle(to, record.run_id, files)


def _files(store: RunStore, run_id: str, left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """Name and content (text, or plain data) of each file of the bundle."""
    record = store.get(run_id)
    folder = record.path
    yield "run.json", record.to_dict()
    related = [r for r in store.list() if r.parent == run_id]
    yield (
        "run_events.json",
        [e.to_dict() for r in (record, *related) for e in store.events(r.run_id)],
    )
    yield "metrics.json", {n: store.metrics(run_id, n) for n in store.metric_names(run_id)}
    yield (
        "artifacts.json",
        [{**a.to_dict(), "exists": a.path.exists()} for a in store.artifacts(run_id)],
    )
    if related:
        yield "related_jobs.json", [r.to_dict() for r in related]
    yield "environment.json", collect(store.output)
    rewards = folder / "rewards.json"
    if rewards.is_file():
        yield "rewards.json", _json(rewards, left_out)
    rejected = folder / "tokens" / "rejected.jsonl"
    if rejected.is_file():
        yield "rejections.json", list(_rejections(rejected))
    for at, r in enumerate((record, *related)):
        log = r.path / "run.log"
        if log.is_file():
            yield ("run.log" if not at else f"{r.run_id}.log"), _end_of(log, left_out)
        for found in sorted(r.path.glob("**/failure_clusters.json")):
            yield (f"{r.run_id}-failure_clusters.json" if at else found.name), _json(found, left_out)


def _rejections(file: Path) -> Iterator[dict[str, Any]]:
    """Where and why each row was left out, without its text."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:  # cut by what the bundle is to explain
                continue
            yield {k: row.get(k) for k in ("source", "line", "reason", "field", "hint")}


def _end_of(log: Path, left_out: dict[str, str]) -> str:
    size = log.stat().st_size
    with log.open("rb") as file:
        if size > LOG_BYTES:
            file.seek(size - LOG_BYTES)
            file.readline()
            left_out[log.name] = f"its first {size - LOG_BYTES} bytes"
        return file.read().decode("utf-8", errors="replace")


def _json(file: Path, left_out: dict[str, str]) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        left_out[file.name] = str(error)
        return {}


def _safe(content: Any) -> str:
    secrets = environment_secrets()
    text = (
        redact_text(content, secrets)
        if isinstance(content, str)
        else dumps(redact(plain(content), secrets), indent=2)
    )
    home = Path.home()
    for spelt in {str(home), home.as_posix(), json.dumps(str(home))[1:-1]}:
        if len(spelt) > 1:
            text = text.replace(spelt, "~")
    return text
