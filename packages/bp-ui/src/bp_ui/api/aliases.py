"""LoRA Craft's paths and payloads, for clients that know them: each is one call of the service layer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from bp_ui.api.datasets import multipart_file
from bp_ui.errors import BpError
from bp_ui.service.exports import start_export
from bp_ui.service.forms import train_flags
from bp_ui.service.services import services

router = APIRouter(prefix="/api", tags=["LoRA Craft"])
Payload = Annotated[dict[str, Any], Body()]


def _text(payload: dict[str, Any], *names: str) -> str:
    for name in names:
        if isinstance(payload.get(name), str) and payload[name]:
            return payload[name]
    raise BpError("INPUT_UI_REQUEST", f"the body lacks {names[0]}", "see /api/docs")


@router.post("/training/start")
def training_start(payload: Payload) -> dict[str, Any]:
    """{session_id, config}: start a training under that id; `left_out` names what of the config has no place here."""
    from bp_core.settings.lora_craft import translate

    config = payload.get("config")
    if not isinstance(config, dict):
        raise BpError("INPUT_UI_REQUEST", "the body lacks config", "see /api/docs")
    taken = translate(config)
    if not taken.settings.get("data"):
        raise BpError(
            "INPUT_UI_REQUEST",
            f"the config names no dataset{''.join(f'; {k} {v}' for k, v in taken.left.items())[:500]}",
            "see /api/docs",
        )
    flags = train_flags(taken.settings, services().places)
    chosen = _text(payload, "session_id") if payload.get("session_id") is not None else None
    run_id = services().jobs.train(flags, run_id=chosen)
    return {"status": "started", "session_id": run_id, "left_out": taken.left}


@router.post("/training/stop")
def training_stop(payload: Payload) -> dict[str, Any]:
    """{session_id}: stop and save."""
    return {
        "status": "stopping",
        "session_id": services().runs.ask(_text(payload, "session_id"), "stop-and-save"),
    }


@router.get("/training/sessions")
def training_sessions() -> dict[str, Any]:
    """All trainings."""
    return {"sessions": [{"session_id": r["run_id"], **r} for r in services().runs.list(kind="train")]}


@router.get("/datasets/list")
def datasets_list() -> dict[str, Any]:
    """All datasets."""
    return {"datasets": services().datasets.list()}


@router.post("/datasets/upload")
async def datasets_upload(request: Request) -> dict[str, Any]:
    """A multipart body with `file`."""
    async with multipart_file(request) as (name, chunks, _):
        return {"success": True, **await services().datasets.upload(name, chunks)}


@router.post("/datasets/preview")
def datasets_preview(payload: Payload) -> dict[str, Any]:
    """{path, samples}: the first rows."""
    samples = payload.get("samples", 5)
    return services().datasets.preview(_text(payload, "path"), samples if isinstance(samples, int) else 5)


@router.post("/models/test")
async def models_test(payload: Payload) -> dict[str, Any]:
    """{model_path, prompt, temperature, max_tokens}: one answer."""
    model = _text(payload, "model_path", "session_id", "model").rstrip("/").rpartition("/")[2]
    own = {k: payload.get(k) for k in ("temperature", "top_p", "max_tokens")}
    return {
        "success": True,
        "response": await services().chats.answer(model, _text(payload, "prompt"), **own),
    }


@router.get("/models/list")
def models_list() -> dict[str, Any]:
    """All adapters."""
    return {"models": services().models.adapters()}


@router.post("/exports/create")
def exports_create(payload: Payload) -> dict[str, Any]:
    """{session_id, format}: export its adapter."""
    own = {k: v for k, v in payload.items() if k in ("format", "quantization")}
    return {
        "status": "started",
        "export_id": start_export(services(), _text(payload, "session_id", "adapter"), own),
    }


@router.post("/configs/save")
def configs_save(payload: Payload) -> dict[str, Any]:
    """{name, config}: save."""
    config = payload.get("config")
    saved = services().configs.save(_text(payload, "name"), config if isinstance(config, dict) else {})
    return {"success": True, "name": saved}


@router.get("/configs/load")
def configs_load(name: Annotated[str, Query(min_length=1)]) -> dict[str, Any]:
    """The values of a name."""
    return {"name": name, "config": services().configs.load(name)}


@router.get("/configs/list")
def configs_list() -> dict[str, Any]:
    """All names."""
    return {"configs": services().configs.list()}
