"""Datasets over REST."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from bp_ui.errors import BpError
from bp_ui.service.catalogue import DATASETS
from bp_ui.service.services import services

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"])


class Preview(BaseModel):
    """Which dataset is looked at, and how it is read."""

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    samples: Annotated[int, Field(ge=1, le=20)] = 5
    map: Annotated[str, Field(max_length=4000)] | None = None
    force: bool = False


class DatasetJob(BaseModel):
    """A job on a dataset: flags of the command by name."""

    path: Annotated[str, Field(min_length=1, max_length=1000)]
    settings: dict[str, str | int | float | bool | list[str] | None] = {}


@router.get("")
def list_datasets() -> dict[str, Any]:
    """Uploads and data files that the UI may read."""
    return {"datasets": services().datasets.list()}


@router.get("/catalogue")
def catalogue() -> dict[str, Any]:
    """Well-known public datasets: task, rows, licence, field map."""
    return {"datasets": list(DATASETS)}


@router.post(
    "/upload",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    request: Request, name: Annotated[str, Query(min_length=1, max_length=200)]
) -> dict[str, Any]:
    """Upload a file: its bytes are the body, its name is in the query."""
    return await services().datasets.upload(name, request.stream())


@router.delete("/uploads/{name}")
def delete(name: str) -> dict[str, Any]:
    """Delete an upload."""
    services().datasets.delete(name)
    return {"deleted": name}


@router.post("/preview")
def preview(asked: Preview) -> dict[str, Any]:
    """Format, proposed mapping, first rows read and refused."""
    return services().datasets.preview(asked.path, asked.samples, asked.map, asked.force)


@router.post("/{action}", status_code=201)
def start(
    action: Literal["report", "validate", "clean", "split", "map"], asked: DatasetJob
) -> dict[str, Any]:
    """Start a job on a dataset."""
    return {"run_id": services().datasets.start(action, asked.path, asked.settings)}


@contextlib.asynccontextmanager
async def multipart_file(
    request: Request,
) -> AsyncIterator[tuple[str, AsyncIterator[bytes], dict[str, str]]]:
    """The name, the bytes and the fields of a multipart body; a large file lies on the disk while the block runs.

    Raises:
        BpError: `INPUT_UI_REQUEST` where there is no file.
    """
    from starlette.datastructures import UploadFile

    async with request.form(max_files=1, max_fields=20) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise BpError("INPUT_UI_REQUEST", "the body has no field `file` with a file", "see /api/docs")

        async def chunks() -> AsyncIterator[bytes]:
            while data := await file.read(1 << 20):
                yield data

        fields = {k: v for k, v in form.items() if isinstance(v, str)}
        yield file.filename or "upload.jsonl", chunks(), fields
