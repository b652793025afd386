"""Runs and jobs over REST."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, Field

from bp_ui.service.autopilot import recommend
from bp_ui.service.forms import command_line, train_flags, train_form
from bp_ui.service.memory import will_it_fit
from bp_ui.service.services import services
from bp_ui.service.sessions import session, start_session

router = APIRouter(prefix="/api/v1", tags=["runs"])
Name = Annotated[str, Field(min_length=1, max_length=64)]


class Training(BaseModel):
    """A training to start or to plan: settings by name or alias, as `backprop train` takes them."""

    settings: dict[str, str | int | float | bool | list[str] | None]
    run_id: Name | None = None
    queue: bool = True


class Asked(BaseModel):
    """What a live run is asked for."""

    action: Literal["pause", "resume", "stop", "stop-and-save"]


class Cleaning(BaseModel):
    """Which files of which ended runs are deleted."""

    run_ids: list[Name] = Field(min_length=1, max_length=500)
    part: Literal["checkpoints", "exports"]


class Named(BaseModel):
    """The name of a run beside its id; an empty one takes it back."""

    name: Annotated[str, Field(max_length=120)]


class Again(BaseModel):
    """What a replay changes of the recorded settings."""

    overrides: dict[str, str | int | float | bool] = {}
    run_id: Name | None = None


@router.get("/runs")
def list_runs(
    status: str | None = None,
    kind: str | None = None,
    text: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Runs and other jobs, newest first; `status=live` for those that go on."""
    return {"runs": services().runs.list(status=status, kind=kind, text=text, limit=limit)}


@router.post("/runs", status_code=201)
def start_run(asked: Training) -> dict[str, Any]:
    """Start a training; it waits for the card unless `queue` is false."""
    flags = train_flags(asked.settings, services().places)
    return {
        "run_id": services().jobs.train(flags, run_id=asked.run_id, queue=asked.queue),
        "command": command_line(flags),
    }


@router.post("/runs/plan")
def plan_run(asked: Training) -> dict[str, Any]:
    """What a training would do: rows, tokens, steps, and an example with the tokens that are learnt; nothing is trained."""
    return services().jobs.now(["train", *train_flags(asked.settings, services().places), "--dry-run"])


@router.post("/runs/memory")
def memory(asked: Training) -> dict[str, Any]:
    """Whether a training fits: bytes by component, verdict, what would make it fit."""
    return will_it_fit(services(), asked.settings)


@router.post("/runs/recommend")
def recommend_run(asked: Training) -> dict[str, Any]:
    """What the autopilot would train on `data`: model, method, settings, each with its reason, and whether it fits."""
    return recommend(services(), asked.settings)


@router.get("/runs/storage")
def storage() -> dict[str, Any]:
    """What ended runs hold on the disk, in bytes."""
    return {"runs": services().runs.storage()}


@router.post("/runs/storage/clean")
def clean(asked: Cleaning) -> dict[str, Any]:
    """Delete checkpoints or exports of ended runs."""
    return {"freed": services().runs.clean(asked.run_ids, asked.part)}


@router.get("/runs/diff")
def diff_runs(a: Name, b: Name) -> dict[str, Any]:
    """What differs between two runs."""
    return services().runs.diff(a, b)


@router.post("/sessions", status_code=201, tags=["sessions"])
def start_multi_run(asked: Training) -> dict[str, Any]:
    """Start a session of many runs: settings of `backprop multi-run`; `data` is a list, a task each."""
    return {"run_id": start_session(services(), asked.settings, run_id=asked.run_id)}


@router.get("/sessions/{run_id}", tags=["sessions"])
def get_session(run_id: Name) -> dict[str, Any]:
    """What a session has decided so far: runs merged or left out, figures of each task after each run."""
    return session(services(), run_id)


@router.get("/runs/{run_id}")
def get_run(run_id: Name) -> dict[str, Any]:
    """One run whole."""
    return services().runs.get(run_id)


@router.patch("/runs/{run_id}")
def rename_run(run_id: Name, asked: Named) -> dict[str, Any]:
    """Name a run."""
    return {"run_id": services().runs.rename(run_id, asked.name), "name": asked.name}


@router.delete("/runs/{run_id}")
def delete_run(run_id: Name) -> dict[str, Any]:
    """Delete an ended run with all that its folder holds."""
    return {"deleted": services().runs.delete([run_id])}


@router.post("/runs/{run_id}/replay", status_code=201)
def replay_run(run_id: Name, asked: Again) -> dict[str, Any]:
    """Train again with the settings of a run, some of them changed."""
    return {"run_id": services().runs.replay(run_id, asked.overrides, new_id=asked.run_id)}


@router.post("/runs/{run_id}/control")
def control_run(run_id: Name, asked: Asked) -> dict[str, Any]:
    """Ask a live run to pause, resume, stop or stop and save; `resume` continues a stopped one."""
    return {"run_id": services().runs.ask(run_id, asked.action), "action": asked.action}


@router.get("/runs/{run_id}/metrics")
def get_metrics(run_id: Name) -> dict[str, Any]:
    """Every metric as [[step, value], …]."""
    return {"run_id": run_id, "metrics": services().runs.metrics(run_id)}


@router.get("/runs/{run_id}/log", response_class=PlainTextResponse)
def get_log(run_id: Name) -> PlainTextResponse:
    """The end of its log."""
    return PlainTextResponse(services().runs.log(run_id))


@router.get("/runs/{run_id}/files/{name:path}", response_class=FileResponse)
def get_file(run_id: Name, name: str) -> FileResponse:
    """A file of a run, as a download."""
    path = services().runs.artifact(run_id, name)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/forms/train")
def get_train_form() -> dict[str, Any]:
    """Every setting of a training: name, help, kind, choices, default, unit, bounds."""
    return {"fields": train_form()}
