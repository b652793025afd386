"""The fine-tuning API that people's scripts speak: /v1/files, /v1/fine_tuning/jobs, /v1/models, over the same services.

- A file is an upload, its id `file-NAME`; a job is a run, its id the run's.
- Hyper-parameters that the protocol names are taken; the others of ours go in `metadata`. What cannot be honoured is
  refused by name. The `suffix` ends the job's id.
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
MULTIPLIER = "learning_rate_multiplier"
METHODS = {"supervised": "sft", "reinforcement": "grpo"}  # other names are ours: dpo, orpo, …


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
    integrations: list[Any] | None = None


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
    async with multipart_file(request) as (name, chunks, fields):
        if fields.get("purpose", "fine-tune") != "fine-tune":
            raise _refused("purpose", f"{fields['purpose'][:40]!r} is none that is served: fine-tune")
        return _file(await services().datasets.upload(name, chunks))


@router.get("/files")
def list_files(
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    purpose: str | None = None,
) -> dict[str, Any]:
    """Uploads."""
    return _page([_file(f) for f in _uploads() if purpose in (None, "fine-tune")], limit, after)


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


def _page(data: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """So many items, from behind the one with the id `after`; a client asks on while `has_more`."""
    if after is not None:
        place = next((i for i, item in enumerate(data) if item["id"] == after), len(data))
        data = data[place + 1 :]
    return {"object": "list", "data": data[:limit], "has_more": len(data) > limit}


def _refused(name: str, why: str) -> BpError:
    return BpError("INPUT_UI_REQUEST", f"{name}: {why}", "see /api/docs", details={"param": name})


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


def _method(asked: NewJob) -> tuple[str, dict[str, Any]]:
    """The type of the method and its hyper-parameters."""
    method = dict(asked.method or {})
    kind = method.pop("type", "")
    if not isinstance(kind, str) or (asked.method and not kind):
        raise _refused(
            "method.type", "is missing: supervised, dpo, reinforcement, or a method of backprop train"
        )
    inner = method.pop(kind, None) or {}
    if method or not isinstance(inner, dict):
        raise _refused("method", f"holds {', '.join(method) or kind}, which {kind} does not take")
    own = inner.get("hyperparameters") or {}
    if set(inner) - {"hyperparameters"} or not isinstance(own, dict):
        raise _refused(f"method.{kind}", "takes hyperparameters alone")
    return kind, own


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
    if asked.integrations:
        raise _refused("integrations", "none is taken: a tracker is named in metadata, as report_to")
    kind, given = _method(asked)
    if kind:
        values["method"] = METHODS.get(kind, kind)
    for name, value in {**(asked.hyperparameters or {}), **given}.items():
        if name != MULTIPLIER and name not in PARAMETERS:
            raise _refused(f"hyperparameters.{name}", f"is none of {', '.join((*PARAMETERS, MULTIPLIER))}")
        if value in ("auto", None):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _refused(f"hyperparameters.{name}", "is no number, and not auto")
        if name == MULTIPLIER:
            from bp_core.settings.tables import LEARNING_RATES

            usual = LEARNING_RATES["lora"]
            values["learning_rate"] = usual.get(str(values.get("method", "sft")), usual["sft"]) * value
        else:
            values[PARAMETERS[name]] = value
    values.update(asked.metadata or {})
    if kind == "reinforcement" and not values.get("rewards"):
        raise _refused("method", "reinforcement needs rewards: their name in metadata, as rewards")
    jobs, run_id = services().jobs, None
    if asked.suffix:
        run_id = f"{jobs.new_id()}-{safe_name(asked.suffix)}"
    run_id = jobs.train(train_flags(values, services().places), run_id=run_id)
    return {
        **_job({"run_id": run_id, "status": "starting", "created_at": time.time(), "model": asked.model}),
        "training_file": asked.training_file,
    }


@router.get("/fine_tuning/jobs")
def list_jobs(limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None) -> dict[str, Any]:
    """Trainings, newest first."""
    return _page([_job(r) for r in services().runs.list(kind="train", limit=1000)], limit, after)


@router.get("/fine_tuning/jobs/{job_id}")
def get_job(job_id: Id) -> dict[str, Any]:
    """One training."""
    return _job(services().runs.get(job_id))


@router.get("/fine_tuning/jobs/{job_id}/events")
def job_events(
    job_id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str | None = None
) -> dict[str, Any]:
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
    return _page(data, limit, after)


@router.get("/fine_tuning/jobs/{job_id}/checkpoints")
def job_checkpoints(
    job_id: Id, limit: Annotated[int, Query(ge=1, le=1000)] = 1000, after: str | None = None
) -> dict[str, Any]:
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
    return _page(data, limit, after)


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


def _models() -> list[dict[str, Any]]:
    return [
        {"id": m["run_id"], "object": "model", "created": int(m["created_at"]), "owned_by": "backprop"}
        for m in services().models.adapters()
    ]


@router.get("/models")
def list_models() -> dict[str, Any]:
    """Tuned models."""
    return {"object": "list", "data": _models()}


@router.get("/models/{model}")
def get_model(model: Id) -> dict[str, Any]:
    """One tuned model."""
    for found in _models():
        if found["id"] == model:
            return found
    raise BpError("INPUT_UI_NAME", f"there is no tuned model {model[:80]!r}", "GET /v1/models lists them")
