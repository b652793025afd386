"""backprop export: the command of bp-export, recorded as a job of the run that it exports.

- Flags, JSON and exit codes are bp-export's; `--queue` and `--run-id` are those of `train`.
- The job stands in the table of the run whose adapter is exported, and names it as its parent; an adapter of no run is
  recorded where `train` would write. A plan (`--dry-run`), a check of a GGUF file and what is refused at once are no jobs.
- An export computes on the processor, so that its lease is that of `cpu`.
- A record that cannot be written is told and does not stop an export.
"""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import click
from bp_export.cli.main import export_command
from bp_export.cli.shared import PROGRESS
from bp_merge.common import BpError, Sink

from bp_cli.recorded import job, listening


def _recorded(queue: bool, run_id: str | None, **given: Any) -> Any:
    """Run the command in a job; `given` is what the command itself takes."""
    command, context = export_command.callback, click.get_current_context()
    assert command is not None
    adapters: tuple[Path, ...] = given["adapters"]
    checked = len(adapters) == 1 and adapters[0].suffix == ".gguf" and adapters[0].is_file()
    if given["dry_run"] or checked:
        if queue or run_id:
            raise click.UsageError("--queue and --run-id go with an export that writes something")
        return command(**given)
    from bp_export.formats.settings import ExportSettings, settings_from
    from bp_merge.common import knobs

    names = {k.name for k in knobs(ExportSettings)}
    asked = {k: v for k, v in given.items() if k in names and v is not None and v != ()}
    settings_from(asked)
    if not all(path.exists() for path in adapters):
        return command(**given)  # which refuses it
    sink = Sink("json" if given["as_json"] else "quiet" if given["quiet"] else "human")
    output, parent = _run_of(adapters[0])
    from bp_core.runs.store import RunStore

    about = {
        "config": {"export": {"adapters": [str(path) for path in adapters], **asked}},
        "sources": {f"export.{name}": "given" for name in ("adapters", *asked)},
        "base_model": {"ref": _base_of(adapters[0])},
        "parent": parent,
        "run_id": run_id,
        "queue": queue,
    }
    with job(sink, output, "export", insist=queue or run_id is not None, **about) as run:
        if run is None:
            return command(**given)
        listen = listening(run)

        def heard(done: int, total: int) -> None:
            run.progress(done, total)
            listen()

        context.meta[PROGRESS] = heard
        run.begin(unit="bytes")
        made = command(**given)
        run.artifact(made.format, made.path)
        if parent is not None:
            RunStore(output).add_artifact(parent, made.format, made.path)
        run.finish("completed", made.to_dict())
        return None


def _run_of(adapter: Path) -> tuple[Path, str | None]:
    """The output folder whose table knows the run of an adapter, with the run; else where `train` writes."""
    from bp_core.runs.store import RunStore

    for folder in list(adapter.absolute().parents)[:3]:
        if (folder / "manifest.json").is_file() and (folder.parent / "runs.db").is_file():
            with contextlib.suppress(BpError):  # a store that cannot be read, or does not know the folder
                if RunStore(folder.parent).get(folder.name).run_id == folder.name:
                    return folder.parent, folder.name
    from bp_core.settings.resolve import resolve

    return resolve().tracking.output, None


def _base_of(adapter: Path) -> str:
    """The base model that an adapter names; the folder itself where it is a whole model."""
    with contextlib.suppress(OSError, ValueError):
        named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return str(named.get("base_model_name_or_path") or "")
    return str(adapter)


export = copy.copy(export_command)
export.callback = _recorded
export.params = [
    *export_command.params,
    click.Option(
        ["--queue"], is_flag=True, help="Wait until the jobs that asked for the processor before are done."
    ),
    click.Option(
        ["--run-id"], metavar="NAME", help="Name of the job. Default: the time, and six random digits."
    ),
]
