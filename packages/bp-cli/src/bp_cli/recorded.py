"""Commands of other packages that write files, recorded as jobs: what was asked, what came out, which rows were left out.

- Both packages know no run; what is mounted here is a copy of theirs that stands in `record_job`, in the output folder
  where `train` writes, with the figures that the command prints as its result and the files that it wrote as artifacts.
- A plan, a look, and what goes to standard output are no jobs; a command that a job runs is that job.
- A record that cannot be written is told and stops nothing, unless the job was given a name.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from bp_merge.common import HEARD, BpError, Exit, Sink

LOOK_EVERY = 0.5  # seconds between two looks for a request to stop
# command path → what is written: keys of its result, or arguments
WRITES: dict[str, tuple[str, ...]] = {
    "data report": ("html",),
    "data clean": ("output", "dropped_file"),
    "data decontaminate": ("output", "dropped_file"),
    "data map": ("output",),
    "data convert": ("output",),
    "data split": ("out_train", "out_heldout"),
    "merge merge": ("output_path",),
    "merge models": ("output_path",),
    "merge bake": ("output_path",),
    "merge slao": ("output_path",),
}
ONLY_WITH = {"data report": "html", "data map": "output", "data convert": "output"}  # else nothing is written


@contextlib.contextmanager
def job(sink: Sink, output: Path, kind: str, *, insist: bool = False, **about: Any) -> Iterator[Any]:
    """The job of a command while the block runs, None where it cannot be recorded, which is told.

    Args:
        sink: hears the job's id.
        output: the folder whose table holds the row.
        kind: of the job.
        insist: refuse where it cannot be recorded.
        **about: as for `record_job`.

    Raises:
        BpError: those of `record_job`, where `insist`.
    """
    from bp_core.runs.jobs import record_job

    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(record_job(output, kind, card="cpu", tell=sink.note, **about))
        except BpError as error:
            if insist or not error.code.startswith(("STATE_RUNS_", "RUNTIME_DISK_FULL")):
                raise
            sink.note(f"this {kind} is not recorded: {error.message}")
            run = None
        yield run


def listening(run: Any) -> Any:
    """A function that, called as often as one likes, ends the work where another process asked the job to stop."""
    looked = [time.monotonic()]

    def listen() -> None:
        if time.monotonic() - looked[0] >= LOOK_EVERY:
            looked[0] = time.monotonic()
            if run.stop_asked():
                raise run.cancelled()

    return listen


def with_record(command: click.Command, path: str) -> click.Command:
    """A copy of a command that is recorded as a job where it writes; the same command where it never does."""
    if path not in WRITES:
        return command
    mounted = copy.copy(command)
    mounted.callback = functools.partial(_recorded, command.callback, path)
    named = click.Option(
        ["--run-id"], metavar="NAME", help="Name of the job. Default: the time, and six random digits."
    )
    mounted.params = [*command.params, named]
    return mounted


def _recorded(command: Any, path: str, run_id: str | None, **given: Any) -> Any:
    from bp_core.runs.jobs import IN_JOB

    if given.get("dry_run") or not _files(path, given) or os.environ.get(IN_JOB):
        if run_id:
            raise click.UsageError("--run-id goes with a command that writes a file")
        return command(**given)
    from bp_core.settings.resolve import resolve

    sink = Sink("json" if given["as_json"] else "quiet" if given["quiet"] else "human")
    group, _, name = path.partition(" ")
    asked = {k: v for k, v in given.items() if v not in (None, (), False, "")}
    about = {
        "config": {group: {"command": name, **asked}},
        "sources": {f"{group}.{k}": "given" for k in asked},
        "name": path,
        "run_id": run_id,
    }
    kind = f"data-{name}" if group == "data" else group
    with job(sink, resolve().tracking.output, kind, insist=run_id is not None, **about) as run:
        if run is None:
            return command(**given)
        told: dict[str, Any] = {}
        listen = listening(run)

        def heard(data: Mapping[str, Any] | None) -> None:
            if data is None:
                listen()
            else:
                told.update(data)

        click.get_current_context().meta[HEARD] = heard
        run.begin(unit="rows" if group == "data" else "bytes")
        try:
            code = command(**given)
        except click.exceptions.Exit as error:
            _end(run, path, {**given, **told}, error.exit_code)
            raise
        _end(run, path, {**given, **told}, int(code or 0))
        return code


def _files(path: str, given: Mapping[str, Any]) -> bool:
    """Whether a file is written: one is named, or has a default, and not all go to standard output."""
    if path in ONLY_WITH and given.get(ONLY_WITH[path]) is None:
        return False
    named = [given.get(key) for key in WRITES[path]]
    return not any(named) or any(value is not None and str(value) != "-" for value in named)


def _end(run: Any, path: str, told: Mapping[str, Any], code: int) -> None:
    """Artifacts, an event for rows that were left out, and the end of the row."""
    from bp_core.runs.jobs import tell_left_out

    for key in WRITES[path]:
        value = told.get(key)
        if value and str(value) != "-" and Path(value).exists():
            run.artifact(path, Path(value))
    left = told.get("dropped") or told.get("rejections")
    if isinstance(left, Mapping) and left:
        counts = {k: v["count"] if isinstance(v, Mapping) else v for k, v in left.items()}
        tell_left_out(run, counts)
    result = {k: v for k, v in told.items() if k not in ("as_json", "quiet", "verbose", "samples")}
    if code == Exit.OK:
        run.finish("completed", result)
        return
    why = "; ".join(map(str, told.get("failed_thresholds") or ())) or "nothing was kept, or a gate refused it"
    run.finish("failed", {**result, "exit_code": code, "error": why, "error_code": _code(path)})


def _code(path: str) -> str:
    """The stable code of what ends with exit code 65."""
    return {
        "data report": "INPUT_DATASET_REPORT_THRESHOLD",
        "merge slao": "RUNTIME_DRIFT_GATE_TRIPPED",
    }.get(path, "INPUT_VALIDATION_FAILED")
