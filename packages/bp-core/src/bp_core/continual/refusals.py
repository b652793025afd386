"""What can be refused of a session before torch is loaded, and how a recorded one is read and found again. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_data.example import Example

from bp_core.encoding.sources import parse_sources
from bp_core.errors import BpError
from bp_core.runs.rows import LIVE, RunRecord
from bp_core.runs.store import RunStore
from bp_core.settings.groups.session import SessionSettings
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import from_record
from bp_core.settings.tables import RL_METHODS
from bp_core.support.files import plain
from bp_core.support.launch import launch
from bp_core.training.refusals import refuse_early

KIND = "multi-run"
RUNS = 5  # of a single dataset
Given = Mapping[str, Any]  # task → a source, or examples in memory


def refuse(
    settings: Settings, given: Given | None, tell: Callable[[str], None]
) -> tuple[Settings, dict[str, Any]]:
    """What can be refused before torch is needed; the settings, and task → source.

    Raises:
        BpError: `CONFIG_…`, `INPUT_…`, `DEP_…`.
    """
    on_disk = given is None or all(isinstance(s, str | Path) for s in given.values())
    settings, _ = refuse_early(settings, tell, data=on_disk)
    if launch().world > 1:
        raise BpError(
            "CONFIG_CONFLICT",
            f"a session trains in one process, not in {launch().world}",
            "start it without a launcher: backprop multi-run",
        )
    if settings.model.backend == "mlx":
        raise BpError(
            "CONFIG_CONFLICT",
            "a session trains many runs on one loaded model, which MLX does not do here",
            "train one run: backprop train --backend mlx, or leave --backend mlx out",
        )
    if settings.method.method in RL_METHODS:
        raise BpError(
            "CONFIG_CONFLICT",
            f"a session merges runs that learn from answers of the data, {settings.method.method} draws its own",
            "train one run: backprop train",
        )
    from bp_core.continual import merging  # numpy, after what can be refused without

    merging.check(settings)
    if given is None:
        names, weights = parse_sources(settings.data.data)
        if weights:
            raise BpError(
                "CONFIG_CONFLICT",
                "each dataset of a session is a task of its own: a weight says nothing",
                "leave the weights out, or mix them in one run: backprop train",
            )
        given = _named(names)
    count_runs(settings.session, len(given))
    if settings.data.heldout and len(given) > 1:
        raise BpError(
            "CONFIG_CONFLICT",
            "--heldout names one file, and every task of a session has held-out rows of its own",
            "use --eval-heldout for the gate, or leave it out: a share of each dataset is held out",
        )
    return settings, dict(given)


def _named(sources: Sequence[str]) -> dict[str, str]:
    """Task names from sources: the file's name, made unique."""
    found: dict[str, str] = {}
    for source in sources:
        name = stem = Path(source).stem or source
        while name in found:
            name = f"{stem}-{len(found) + 1}"
        found[name] = source
    return found


def tasks_of(data: Any) -> Given | None:
    """What `multi_run` was given, as task → source or examples; None where the settings name the data."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {str(k): v if isinstance(v, str | Path) else list(v) for k, v in data.items()}
    if isinstance(data, str | Path):
        return _named([str(data)])
    items = list(data)
    if items and all(isinstance(x, Example) for x in items):
        return {"in memory": items}
    if all(isinstance(x, str | Path) for x in items):
        return _named([str(x) for x in items])
    return {f"task {k}": x if isinstance(x, str | Path) else list(x) for k, x in enumerate(items, 1)}


def count_runs(session: SessionSettings, datasets: int) -> int:
    """The runs of a session.

    Raises:
        BpError: `CONFIG_CONFLICT` where several datasets and another number of runs are asked for.
    """
    if datasets == 1:
        return session.runs or RUNS
    if session.runs not in (None, datasets):
        raise BpError(
            "CONFIG_CONFLICT",
            f"{datasets} datasets are {datasets} runs, one a task; --runs {session.runs} was given",
            "leave --runs out, or give one dataset",
        )
    return datasets


def of_record(record: RunRecord) -> Settings:
    """The settings of a recorded session."""
    settings = from_record(record.config)
    return dataclasses.replace(settings, sources={**settings.sources, **record.sources})


def identity_of(source: Any) -> dict[str, Any]:
    """What tells one source from another: path and content; of rows in memory their digest."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            return {"source": str(source)}
        with path.open("rb") as file:
            return {"source": path.as_posix(), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    digest = hashlib.sha256()
    for example in source:
        digest.update(repr(example).encode("utf-8", "backslashreplace"))
    return {"source": "in memory", "rows": len(source), "sha256": digest.hexdigest()}


def unfinished(store: RunStore, settings: Settings, sources: Given) -> RunRecord | None:
    """The newest session of the folder with these settings and data that is not finished and not at work."""
    wanted = plain(settings.to_dict())
    identity = plain([identity_of(s) for s in sources.values()])
    for record in store.list(kind=KIND):
        if record.status == "completed" or record.status in LIVE or record.started_at is None:
            continue
        if record.config == wanted and record.dataset.get("sources") == identity:
            return record
    return None


def wrong_kind(store: RunStore, record: RunRecord) -> BpError:
    """The refusal of what is no session."""
    return BpError(
        "INPUT_RUN_KIND",
        f"{record.run_id} is a job of kind {record.kind}, no session",
        f"backprop runs{store.flag}",
        details={"run_id": record.run_id, "kind": record.kind},
    )
