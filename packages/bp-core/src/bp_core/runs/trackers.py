"""Where metrics go besides the run store: always a local file, and the trackers that the user named.

- `<run>/metrics.jsonl` is always written: one object a step, readable while the run goes on and after any crash.
- Nothing else without its name: no tracker is used because it happens to be installed, so no network is touched
  unasked. `tensorboard` and `mlflow` (without MLFLOW_TRACKING_URI) write below the output directory, `trackio` to its
  own local folder, `wandb` to its service (or as WANDB_MODE says).
- Every tracker shows the run under the run id of the run store, and a resumed run continues there.
- A named tracker that is missing is told before anything is loaded (`check`). One that fails later is told once and
  left out: a service that is down does not end a training.
- What trackers print goes to stderr; stdout belongs to our data.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bp_core.errors import BpError
from bp_core.support.files import dumps, plain, write_atomic
from bp_core.support.redact import redact

PROJECT = "backprop"


class Tracker(Protocol):
    """One destination of metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """The end, with the result's numbers."""


# ------------------------------------------------------------------------------------------- local file


class LocalFile:
    """`metrics.jsonl`: `{"step": 1, "time": …, "loss": …}` a line, flushed at once; NaN is null.

    Args:
        path: the file; its folder exists.
        resume_step: keep the lines up to this step and go on after them (a half line left by a kill is dropped);
            None begins anew.
    """

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        self.path = path
        if path.exists():
            kept = [] if resume_step is None else read_metrics(path, until=resume_step)
            write_atomic(path, "".join(f"{dumps(row)}\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._file.write(dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._file.close()


def read_metrics(path: Path, *, until: int | None = None) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, up to a step where given; a torn last line is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if (
            isinstance(row, dict)
            and isinstance(row.get("step"), int)
            and (until is None or row["step"] <= until)
        ):
            rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------- by name


class TensorBoard:
    """Event files in `<run>/tensorboard`; look with `tensorboard --logdir OUTPUT`."""

    def __init__(self, run_id: str, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder / "tensorboard"))
        if resume_step is not None:  # TensorBoard then hides what the part before had written past this step
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        points = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_event(
            self._event(wall_time=time.time(), step=step, summary=self._summary(value=points))
        )

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._writer.close()


class Wandb:
    """Weights & Biases; the run has our run id as its id and name."""

    def __init__(self, run_id: str, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=run_id,
            dir=str(folder),
            config=dict(config),
            resume="allow",
            reinit="create_new",
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(dict(values), step=step)

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._run.summary.update({**result, "status": status})
        self._run.finish(exit_code=0 if status in ("completed", "stopped") else 1)


class Mlflow:
    """MLflow through its client, without its global state; `<output>/mlflow.db` unless MLFLOW_TRACKING_URI is set."""

    def __init__(self, run_id: str, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        local = f"sqlite:///{(folder.parent / 'mlflow.db').absolute().as_posix()}"
        self._client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", local))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self._client.create_experiment(name)
        known = self._client.search_runs([where], f"tags.`backprop.run_id` = '{run_id}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            run = self._client.create_run(where, tags={"backprop.run_id": run_id}, run_name=run_id)
            self._run = run.info.run_id
            params = [Param(k, str(v)[:6000]) for k, v in flat(config).items() if v is not None]
            for i in range(0, len(params), 100):  # the service takes 100 at a time
                self._client.log_batch(self._run, params=params[i : i + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        ended = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        self._client.set_terminated(self._run, status=ended)


class Trackio:
    """Trackio, local; look with `trackio show --project backprop`."""

    def __init__(self, run_id: str, folder: Path, config: Mapping[str, Any], resume_step: int | None) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=run_id,
            config=dict(config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._trackio.log(dict(values), step=step)

    def finish(self, status: str, result: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._trackio.finish()


NAMED: dict[str, Callable[[str, Path, Mapping[str, Any], int | None], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def check(names: Sequence[str]) -> list[str]:
    """The trackers to use, each known and installed; `none` and an empty list give none.

    Raises:
        BpError: `INPUT_TRACKER_UNKNOWN`, `DEP_TRACKER_MISSING`.
    """
    wanted = [n.strip().lower() for n in names if n.strip().lower() not in ("", "none")]
    for name in wanted:
        if name not in NAMED:
            near = difflib.get_close_matches(name, NAMED, 1)
            why = "network is opt-in, so name the trackers you want" if name in ("auto", "all") else ""
            guess = f"did you mean {near[0]}?" if near else why or f"known are {', '.join(NAMED)}"
            raise BpError(
                "INPUT_TRACKER_UNKNOWN",
                f"no tracker {name!r}; {guess}",
                "add --tracker tensorboard to the command",
            )
        if importlib.util.find_spec(name) is None:
            raise BpError(
                "DEP_TRACKER_MISSING",
                f"the tracker {name} is not installed",
                f"pip install 'bp-core[{name}]'",
            )
    return list(dict.fromkeys(wanted))


class Trackers:
    """The local file and the named trackers of one run, each isolated from the others.

    Args:
        names: as in `check`.
        run_id: of the run store; every tracker shows the run under it.
        folder: the run's directory.
        config: the resolved configuration; secrets in it are redacted before it leaves.
        resume_step: the step that a resumed run stands at.
        on_event: called as `on_event(code, message, **details)` for `TRACKER_FAILED` (`Run.event` fits).

    Raises:
        BpError: `INPUT_TRACKER_UNKNOWN`, `DEP_TRACKER_MISSING`.
    """

    def __init__(
        self,
        names: Sequence[str],
        run_id: str,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *,
        resume_step: int | None = None,
        on_event: Callable[..., Any] | None = None,
    ) -> None:
        self._on_event = on_event or (lambda *_, **__: None)
        self._live: dict[str, Tracker] = {}
        shown = redact(plain(config or {}))
        checked = check(names)
        self._start("metrics.jsonl", lambda: LocalFile(folder / "metrics.jsonl", resume_step=resume_step))
        for name in checked:
            self._start(name, lambda make=NAMED[name]: make(run_id, folder, shown, resume_step))

    @property
    def names(self) -> list[str]:
        """The trackers that still work."""
        return list(self._live)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Give the numbers of a step to every tracker."""
        numbers = {name: float(value) for name, value in values.items()}
        for name, tracker in list(self._live.items()):
            self._guarded(name, lambda t=tracker: t.log(step, numbers))

    def finish(self, status: str, result: Mapping[str, Any] | None = None) -> None:
        """End every tracker; only the numbers of the result are passed on."""
        numbers = {
            k: float(v)
            for k, v in (result or {}).items()
            if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
        }
        for name, tracker in list(self._live.items()):
            self._guarded(name, lambda t=tracker: t.finish(status, numbers))
        self._live.clear()

    def _start(self, name: str, make: Callable[[], Tracker]) -> None:
        self._guarded(name, lambda: self._live.__setitem__(name, make()))

    def _guarded(self, name: str, call: Callable[[], object]) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                call()
        except Exception as error:  # noqa: BLE001 - foreign code and services: told, recorded, and left out from now on
            self._live.pop(name, None)
            cause = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
            self._on_event("TRACKER_FAILED", f"{name} is left out from now on: {cause}", tracker=name)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys.

    >>> flat({"lora": {"rank": 16}, "seed": 1})
    {'lora.rank': 16, 'seed': 1}
    """
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out
