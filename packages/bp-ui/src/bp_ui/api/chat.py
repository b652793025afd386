"""Chat with tuned models, as the protocol of chat completions has it, and batch tests."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bp_ui.service.services import services

router = APIRouter()
Model = Annotated[str, Field(min_length=1, max_length=1000)]


class Serving(BaseModel):
    """Which model shall answer: a run's id, a folder, a GGUF file, a base model."""

    model: Model
    backend: Literal["auto", "cuda", "cpu"] = "auto"


class Batch(BaseModel):
    """A file of prompts, and the model that is asked."""

    model: Model
    prompts: Model
    format: Literal["csv", "json", "jsonl"] = "csv"
    with_base: bool = False
    reward: Annotated[str, Field(max_length=128)] = ""
    max_new_tokens: Annotated[int, Field(ge=1, le=100_000)] = 128
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0


@router.post("/v1/chat/completions", tags=["fine-tuning"])
async def chat_completions(body: Annotated[dict[str, Any], Body()]) -> StreamingResponse:
    """Answer a chat, whole or streamed; `model` is a run's id, `ID:base` the same without its adapter.

    A model that does not answer yet is started first, which takes as long as loading it.
    """
    status, parts = await services().chats.complete(body)
    kind = "text/event-stream" if body.get("stream") is True and status == 200 else "application/json"
    return StreamingResponse(parts, status, media_type=kind, headers={"cache-control": "no-cache"})


@router.get("/api/v1/serving", tags=["models"])
def serving() -> dict[str, Any]:
    """The model that answers, null where none does."""
    found = services().chats.serving()
    return {"serving": found and {k: v for k, v in found.items() if k != "url"}}


@router.post("/api/v1/serving", tags=["models"], status_code=201)
def serve(asked: Serving) -> dict[str, Any]:
    """Let a model answer; the one before it ends."""
    return {"run_id": services().chats.start(asked.model, backend=asked.backend)}


@router.delete("/api/v1/serving", tags=["models"])
def stop() -> dict[str, Any]:
    """End the model that answers."""
    services().chats.stop()
    return {"serving": None}


@router.post("/api/v1/batch-tests", tags=["models"], status_code=201)
def batch_test(asked: Batch) -> dict[str, Any]:
    """Ask a model every prompt of a file; the answers are a file of the job."""
    flags = (f"--max-new-tokens={asked.max_new_tokens}", f"--temperature={asked.temperature}")
    run_id = services().chats.batch(
        asked.model,
        asked.prompts,
        suffix=f".{asked.format}",
        with_base=asked.with_base,
        reward=asked.reward,
        flags=flags,
    )
    return {"run_id": run_id}
