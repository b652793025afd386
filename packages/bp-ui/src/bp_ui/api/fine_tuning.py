"""The fine-tuning API that people's scripts speak: /v1/files, /v1/fine_tuning/jobs, /v1/models, over the same services.

- A file is an upload, its id `file-NAME`; a job is a run, its id the run's.
- Hyper-parameters that the protocol names are taken; the others of ours go in `metadata`.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from bp_ui.api.datasets import multipart_file
from bp_ui.errors import BpError
from bp_ui.service.forms import train_flags
from bp_ui.service.places import safe_name
from bp_ui.service.services import services

router = APIRouter(prefix="/v1", tags=["fine-tuning"])
Id = Annotated[str, Field(min_length=1, max_length=140)]
STATUS = {
    "starting": "validating_files", "queued": "queued", "preparing": "validating_files", "running": "running", "paused": "paused",
    "completed": "succeeded", "stopped": "cancelled", "interrupted": "cancelled", "failed": "failed", "crashed": "failed",
}  # fmt: skip
PARAMETERS = {"n_epochs": "epochs", "batch_size": "batch_size", "beta": "dpo_beta"}


class NewJob(BaseModel):
    """A job as the protocol has it."""

    model: Annotated[str, Field(min_length=1, max_length=300)]
    training_file: Id
    validation_file: Id | None = None
    suffix: Annotated[str, Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    hyperparameters: dict[str, Any] | None = None
    method: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None


def _file(file: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"file-{file['name']}",
        "object": "file",
        "bytes": file["bytes"],
        "created_at": int(file.get("changed_at") or time.time()),
        "filename": file["name"],
        "purpose": "fine-tune",
        "status": "processed",
    }


def _uploads() -> list[dict[str, Any]]:
    listed = services().datasets.list()
    return [{**f, "name": f["path"].replace("\\", "/").rpartition("/")[2]} for f in listed if f["uploaded"]]


def _upload(file_id: str) -> dict[str, Any]:
    for file in _uploads():
        if f"file-{file['name']}" == file_id:
            return file
    raise BpError("INPUT_UI_NAME", f"there is no file {file_id[:80]!r}", "upload it: POST /v1/files")


@router.post("/files")
async def create_file(request: Request) -> dict[str, Any]:
    """Upload a file: multipart with `file` and `purpose`."""
    name, chunks, _ = await multipart_file(request)
    return _file(await services().datasets.upload(name, chunks))


@router.get("/files")
def list_files() -> dict[str, Any]:
    """All uploads."""
    return {"object": "list", "data": [_file(f) for f in _uploads()], "has_more": False}


@router.get("/files/{file_id}")
def get_file(file_id: Id) -> dict[str, Any]:
    """One upload."""
    return _file(_upload(file_id))


@router.get("/files/{file_id}/content", response_class=FileResponse)
def file_content(file_id: Id) -> FileResponse:
    """Its bytes."""
    return FileResponse(_upload(file_id)["path"], media_type="application/octet-stream")


@router.delete("/files/{file_id}")
def delete_file(file_id: Id) -> dict[str, Any]:
    """Delete one."""
    services().datasets.delete(safe_name(_upload(file_id)["name"]))
    return {"id": file_id, "object": "file", "deleted": True}


def _job(run: dict[str, Any]) -> dict[str, Any]:
    config = run.get("config") or {}
    training = config.get("training") or {}
    done = run["status"] == "completed"
    created = run.get("created_at")
    failed = run["status"] in ("failed", "crashed")
    return {
        "id": run["run_id"],
        "object": "fine_tuning.job",
        "created_at": _seconds(created),
        "finished_at": _seconds(run.get("finished_at")) or None,
        "model": (config.get("model") or {}).get("model") or run.get("model") or "",
        "fine_tuned_model": run["run_id"] if done else None,
        "organization_id": "local",
        "result_files": [],
        "status": STATUS.get(run["status"], "running"),
        "training_file": f"file-{_basename((config.get('data') or {}).get('data'))}",
        "validation_file": None,
        "trained_tokens": (run.get("result") or {}).get("tokens"),
        "error": {"code": "failed", "message": run.get("error") or run["status"], "param": None}
        if failed
        else None,
        "hyperparameters": {
            "n_epochs": training.get("epochs") or "auto",
            "batch_size": training.get("batch_size") or "auto",
            "learning_rate_multiplier": "auto",
        },
        "seed": training.get("seed") or 0,
        "estimated_finish": None,
        "integrations": [],
    }


def _basename(data: Any) -> str:
    first = data[0] if isinstance(data, list) and data else data or ""
    return str(first).replace("\\", "/").rpartition("/")[2]


def _seconds(value: Any) -> int:
    if isinstance(value, str):
        from bp_core.runs.rows import seconds

        return int(seconds(value))
    return int(value or 0)


@router.post("/fine_tuning/jobs")
def create_job(asked: NewJob) -> dict[str, Any]:
    """Start a training."""
    values: dict[str, Any] = {
        "model": asked.model,
        "data": [str(_upload(asked.training_file)["path"])],
        "seed": asked.seed,
    }
    if asked.validation_file:
        values["heldout"] = str(_upload(asked.validation_file)["path"])
    given = dict(asked.hyperparameters or {})
    if asked.method:
        kind = str(asked.method.get("type", "supervised"))
        values["method"] = {"supervised": "sft"}.get(kind, kind)
        inner = asked.method.get(kind)
        given.update((inner.get("hyperparameters") or {}) if isinstance(inner, dict) else {})
    for theirs, ours in PARAMETERS.items():
        if theirs in given and given[theirs] != "auto":
            values[ours] = given[theirs]
    if isinstance(multiplier := given.get("learning_rate_multiplier"), int | float):
        values["learning_rate"] = 2e-4 * multiplier
    values.update(asked.metadata or {})
    run_id = services().jobs.train(train_flags(values, services().places))
    return {
        **_job({"run_id": run_id, "status": "starting", "created_at": time.time(), "model": asked.model}),
        "training_file": asked.training_file,
    }


@router.get("/fine_tuning/jobs")
def list_jobs(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> dict[str, Any]:
    """Trainings, newest first."""
    return {
        "object": "list",
        "data": [_job(r) for r in services().runs.list(kind="train", limit=limit)],
        "has_more": False,
    }


@router.get("/fine_tuning/jobs/{job_id}")
def get_job(job_id: Id) -> dict[str, Any]:
    """One training."""
    return _job(services().runs.get(job_id))


@router.get("/fine_tuning/jobs/{job_id}/events")
def job_events(job_id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """Its audit trail, newest first."""
    events = services().runs.get(job_id)["events"]
    data = [
        {
            "id": f"event-{e['id']}",
            "object": "fine_tuning.job.event",
            "created_at": _seconds(e["time"]),
            "level": "info",
            "message": f"{e['code']}: {e['message']}",
            "type": "message",
        }
        for e in reversed(events)
    ]
    return {"object": "list", "data": data[:limit], "has_more": len(data) > limit}


@router.get("/fine_tuning/jobs/{job_id}/checkpoints")
def job_checkpoints(job_id: Id) -> dict[str, Any]:
    """Its checkpoints that are there, newest first."""
    run = services().runs.get(job_id)
    points = services().runs.metrics(run["run_id"]).get("loss", []) if run["events"] else []
    losses = {int(step or 0): value for step, value in points}
    data = []
    for artifact in reversed(run["artifacts"]):
        if artifact["kind"] != "checkpoint" or not artifact["exists"]:
            continue
        name = artifact["path"].replace("\\", "/").rpartition("/")[2]
        step = int(name.rpartition("-")[2])
        data.append(
            {
                "id": f"{run['run_id']}:{name}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": _seconds(artifact["time"]),
                "fine_tuned_model_checkpoint": f"{run['run_id']}:{name}",
                "fine_tuning_job_id": run["run_id"],
                "metrics": {"step": step, "train_loss": losses.get(step)},
                "step_number": step,
            }
        )
    return {"object": "list", "data": data, "has_more": False}


@router.post("/fine_tuning/jobs/{job_id}/cancel")
def cancel_job(job_id: Id) -> dict[str, Any]:
    """Stop a training."""
    return _job(services().runs.get(services().runs.ask(job_id, "stop")))


@router.post("/fine_tuning/jobs/{job_id}/pause")
def pause_job(job_id: Id) -> dict[str, Any]:
    """Pause a training."""
    return _job(services().runs.get(services().runs.ask(job_id, "pause")))


@router.post("/fine_tuning/jobs/{job_id}/resume")
def resume_job(job_id: Id) -> dict[str, Any]:
    """Let a paused training go on, or continue a stopped one."""
    return _job(services().runs.get(services().runs.ask(job_id, "resume")))


@router.get("/models")
def list_models() -> dict[str, Any]:
    """Tuned models."""
    data = [
        {"id": m["run_id"], "object": "model", "created": int(m["created_at"]), "owned_by": "backprop"}
        for m in services().models.adapters()
    ]
    return {"object": "list", "data": data}
