"""Which adapter a user means: a folder, a run's folder, a run id or its beginning, `latest`, or nothing.

- A run that trained the whole model left that instead; wherever an adapter is asked for, it will do.
- What lies on the disk comes first; a name that is no path is looked up in the run store of the output folder.
- `latest`, or nothing, is the newest completed run that left an adapter; for the runs of a session that is the session.
- A path that is not there is given back as it came: who asked tells what is missing in it.
- No torch: a command refuses before anything heavy is loaded.
"""

from __future__ import annotations

from pathlib import Path

from bp_core.errors import BpError
from bp_core.runs.rows import LATEST, LIVE, PHASE, delivered
from bp_core.runs.store import RunStore

__all__ = ["find_adapter"]


def find_adapter(name: str | Path | None, output: str | Path) -> Path:
    """The adapter directory that is meant.

    Args:
        name: a folder or file, a run's folder, a run id or its beginning, `latest`; None means `latest`.
        output: the folder that holds `runs.db`.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND` where no run completed or none has that id, `INPUT_RUN_AMBIGUOUS`,
            `STATE_RUN_NO_ADAPTER` where the run left none.
    """
    text = LATEST if name is None else str(name)
    path = Path(text)
    if path.exists():
        return _inside(path)
    store = RunStore(output)
    if text == LATEST:
        sessions = {r.run_id: r for r in store.list(kind="multi-run", status="completed")}
        for found in store.list(status="completed"):
            if found.kind == PHASE:
                continue
            if (left := sessions.get(found.parent or "", found).delivered) is not None:
                return left
        raise BpError(
            "INPUT_RUN_NOT_FOUND",
            f"no run in {store.path} completed with an adapter, so that there is no latest one",
            f"backprop runs{store.flag}",
        )
    if not text or path.name != text or path.suffix:
        return path
    record = store.get(text)
    left = record.delivered
    if left is None:
        going = record.status in LIVE
        look = going or record.kind not in ("train", "multi-run")
        raise BpError(
            "STATE_RUN_NO_ADAPTER",
            f"run {record.run_id} is {record.status} and has no adapter",
            f"backprop {'show-run' if look else 'resume'} {record.run_id}{store.flag}",
            retryable=going,
            details={"run_id": record.run_id, "status": record.status},
        )
    return left


def _inside(path: Path) -> Path:
    """A run's folder stands for what it left."""
    if any((path / mark).is_file() for mark in ("adapter_config.json", "config.json")):
        return path
    return delivered(path) or path
