"""The REST API as one FastAPI app: routers over the service layer, coded errors as JSON, documentation without a script.

- A handler that touches the disk is a plain function: it runs in a thread, so that no tab waits for another.
- Every error has the shape `{"error": {code, message, hint, retryable, details}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bp_merge.common import finite, hidden, is_coded
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from bp_ui.api import aliases, chat, datasets, fine_tuning, library, runs, stream
from bp_ui.api.docs import page
from bp_ui.service.places import Places
from bp_ui.service.services import Services, use

NOT_FOUND = frozenset({"INPUT_RUN_NOT_FOUND", "INPUT_UI_NAME", "INPUT_DATASET_NOT_FOUND"})
STATUS = {
    "INPUT_RUN_EXISTS": 409,
    "INPUT_UI_PATH_FORBIDDEN": 403,
    "INPUT_UI_FILE_TYPE": 415,
}
BY_PREFIX = {"INPUT": 400, "CONFIG": 400, "STATE": 409, "DEP": 424, "HUB": 424, "OLLAMA": 424, "UI": 400}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (400, "a value cannot be"),
        (401, "a password is needed"),
        (403, "outside what the UI may use"),
        (404, "there is none of that name"),
        (409, "it is in a state in which that cannot be"),
        (413, "too large"),
        (415, "of another type"),
        (424, "something that it needs is missing"),
        (429, "too many guesses"),
    )
}


NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it, and not the text «\u0000»
REFUSED: dict[str, Any] = {
    "code": "INPUT_UI_REQUEST",
    "hint": "see /api/docs",
    "retryable": False,
    "details": {},
    "type": "invalid_request_error",
    "param": None,
}


def status_of(code: str) -> int:
    """The HTTP status of a coded error.

    >>> status_of("INPUT_RUN_NOT_FOUND"), status_of("STATE_RUN_ACTIVE"), status_of("RUNTIME_DISK_FULL")
    (404, 409, 500)
    """
    if code in NOT_FOUND or code.endswith("_NOT_FOUND"):
        return 404
    return STATUS.get(code, BY_PREFIX.get(code.partition("_")[0], 500))


def error_body(error: Any) -> dict[str, Any]:
    """A coded error as the body of an answer, without secrets."""
    return {"error": {**hidden(finite(error.to_dict())), **_kind(status_of(error.code), error.details)}}


def _kind(status: int, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What clients of the fine-tuning API read of an error beside code and message."""
    kind = "invalid_request_error" if status < 500 else "api_error"
    return {"type": kind, "param": (details or {}).get("param")}


def unfit(body: bytes) -> str:
    r"""Why no handler can take a JSON body, "" where one may; what is no JSON at all they tell themselves.

    >>> unfit(b'{"a": "\\ud800"}'), unfit(b'{"a": "x"}')
    ('half of a character stands in a text', '')
    """
    try:
        text = json.dumps(json.loads(body), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        return "a number is not finite" if "JSON compliant" in str(error) else ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a character stands in a text"
    return "a NUL stands in a text" if NUL.search(text) else ""


def make_api(places: Places) -> FastAPI:
    """The app.

    Args:
        places: the folders of the server.
    """
    use(Services(places))
    app = FastAPI(
        title="Backprop",
        version="1",
        description="Training, runs, datasets, rewards, models and exports, as the pages use them.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=REFUSALS,
    )
    for router in (
        runs.router,
        datasets.router,
        library.router,
        chat.router,
        stream.router,
        fine_tuning.router,
        aliases.router,
    ):
        app.include_router(router)

    @app.get("/api/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(app.openapi(), request.scope.get("root_path", "")))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        return JSONResponse({"error": {**REFUSED, "message": f"{where}: {first['msg']}"}}, 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        told = {**REFUSED, "message": str(error.detail)}
        return JSONResponse({"error": told}, error.status_code, headers=getattr(error, "headers", None))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        told = {
            "code": "RUNTIME_UNEXPECTED",
            "message": type(error).__name__,
            "hint": "backprop info",
            "retryable": False,
            "details": {},
        }
        return JSONResponse({"error": told}, 500)

    @app.middleware("http")
    async def coded(request: Request, call_next: Any) -> Any:
        if "json" in request.headers.get("content-type", "") and (why := unfit(await request.body())):
            return JSONResponse({"error": {**REFUSED, "message": why}}, 400)
        try:
            return await call_next(request)
        except Exception as error:
            if not is_coded(error):
                raise
            coded_error: Any = error
            return JSONResponse(error_body(error), status_of(coded_error.code))

    return app
