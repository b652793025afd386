"""Models that answer: each is `backprop serve` as a job, on this machine alone and with a key of its own.

- One at a time: a second one would need the memory of the first. A training or an evaluation that is started here takes
  its place too, so that none waits for a model that nobody asks any longer.
- Address and key lie in the job's files, so that a UI that was started anew finds the model again.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.forms import confined
from bp_ui.service.jobs import Jobs, last_json, tail
from bp_ui.service.places import Places

KEY = "BACKPROP_SERVE_KEY"
BACKENDS = ("auto", "cuda", "cpu")
PATIENCE = 600.0  # seconds until a model must answer
BASE = ":base"


class Chats:
    """Starts and finds models that answer.

    Args:
        places: the folders of the server.
        jobs: starts them.
    """

    def __init__(self, places: Places, jobs: Jobs) -> None:
        self.places, self.jobs = places, jobs

    def start(self, model: str, *, backend: str = "auto") -> str:
        """Let a model answer; the one before it ends. Returns the id of the job.

        Args:
            model: a run's id (while it trains, its newest complete checkpoint), a folder, a GGUF file or a base model.
            backend: auto, cuda or cpu.

        Raises:
            BpError: `INPUT_UI_REQUEST` for another backend, `INPUT_UI_PATH_FORBIDDEN`, `INPUT_RUN_NOT_FOUND`.
        """
        if backend not in BACKENDS:
            raise BpError(
                "INPUT_UI_REQUEST", f"{backend!r} is none of {', '.join(BACKENDS)}", "see /api/docs"
            )
        named = confined("model", model, self.places)
        if named == model and "/" not in model and model != "tiny":
            from bp_core.runs.store import RunStore

            RunStore(self.places.output).get(model)
        self.jobs.free_card()
        return self.jobs.serve(named, backend, {KEY: secrets.token_urlsafe(24)})

    def serving(self) -> dict[str, Any] | None:
        """The model that answers, or will: run_id, model, status, ready; None where there is none."""
        from bp_core.runs.store import RunStore

        for started in self.jobs.starting():
            if started.kind == "serve" and started.process.poll() is None:
                return {
                    "run_id": started.run_id,
                    "model": "",
                    "status": "starting",
                    "ready": False,
                    "url": "",
                }
        for record in RunStore(self.places.output).list(kind="serve", limit=5):
            if record.status in ("queued", "preparing", "running"):
                told = last_json(tail(self.jobs.file(record.run_id, "out")))
                return {
                    "run_id": record.run_id,
                    "model": str((record.config.get("serve") or {}).get("model", "")),
                    "name": str(told.get("model", "")),
                    "status": record.status,
                    "ready": bool(told.get("url")),
                    "url": str(told.get("url", "")),
                }
        return None

    def stop(self) -> None:
        """End the model that answers."""
        self.jobs.free_card()

    async def ready(self, model: str) -> dict[str, Any]:
        """The model, answering; started where it does not yet.

        Args:
            model: as `start` takes it; with `:base` after it the same without its adapter.

        Raises:
            BpError: those of `start`; that of the job where it failed; `RUNTIME_UI_MODEL_SLOW`.
        """
        wanted = model.removesuffix(BASE)
        found = await asyncio.to_thread(self.serving)
        if found is None or wanted not in (found["model"], found.get("name"), found["run_id"]):
            run_id = await asyncio.to_thread(self.start, wanted)
        else:
            run_id = found["run_id"]
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = await asyncio.to_thread(self.serving)
            if found is not None and found["run_id"] == run_id and found["ready"]:
                return found
            if (found is None or found["run_id"] != run_id) and not self.jobs.is_starting(run_id):
                raise self.jobs.told_error(run_id) or BpError(
                    "INPUT_UI_NAME", f"{wanted} no longer answers", f"backprop show-run {run_id}"
                )
            await asyncio.sleep(0.3)
        raise BpError(
            "RUNTIME_UI_MODEL_SLOW",
            f"{wanted} does not answer after {PATIENCE:.0f} s",
            f"backprop show-run {run_id}",
        )

    async def complete(self, body: Mapping[str, Any]) -> tuple[int, AsyncIterator[bytes]]:
        """Ask the model that a chat completion names: status and body as they come.

        Raises:
            BpError: those of `ready`; `INPUT_UI_REQUEST` where the body names no model.
        """
        import httpx

        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BpError("INPUT_UI_REQUEST", "the body lacks model", "see /api/docs")
        found = await self.ready(model)
        asked = {**body, "model": found["name"] + (BASE if model.endswith(BASE) else "")}
        client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=20.0))
        request = client.build_request(
            "POST",
            f"{found['url']}/chat/completions",
            json=asked,
            headers={"authorization": f"Bearer {self.jobs.secret(found['run_id'])}"},
        )
        try:
            answer = await client.send(request, stream=True)
        except httpx.TransportError as error:
            await client.aclose()
            raise BpError(
                "INPUT_UI_NAME", f"{model} went away: {error}", f"backprop show-run {found['run_id']}"
            ) from None

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_bytes():
                    yield part
            finally:
                await answer.aclose()
                await client.aclose()

        return answer.status_code, parts()

    async def answer(self, model: str, prompt: str, **settings: Any) -> str:
        """One whole answer to one prompt.

        Raises:
            BpError: those of `complete`; `INPUT_UI_REQUEST` with what the model refused.
        """
        body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        status, parts = await self.complete({**body, **{k: v for k, v in settings.items() if v is not None}})
        told = json.loads(b"".join([part async for part in parts]))
        if status != 200:
            raise BpError("INPUT_UI_REQUEST", str(told["error"]["message"]), "see /api/docs")
        return told["choices"][0]["message"]["content"]

    def batch(
        self,
        model: str,
        prompts: str,
        *,
        suffix: str = ".csv",
        with_base: bool = False,
        reward: str = "",
        flags: tuple[str, ...] = (),
    ) -> str:
        """Ask a model every prompt of a file, as a job; returns its id. The answers lie in the job's folder.

        Args:
            model: as `start` takes it.
            prompts: the file.
            suffix: of the answers.
            with_base: ask the base model too.
            reward: scores each answer against its row's own; a name of the catalogue or of a kept set.
            flags: of sampling.

        Raises:
            BpError: `INPUT_UI_NAME` for another reward, `INPUT_UI_REQUEST` for another suffix, `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`.
        """
        if suffix not in (".csv", ".json", ".jsonl"):
            raise BpError(
                "INPUT_UI_REQUEST", f"{suffix!r} is none of .csv, .json, .jsonl", "backprop batch-test --help"
            )
        file = self.places.readable(prompts, data=True)
        run_id = self.jobs.new_id()
        to = self.places.writable(run_id, f"answers{suffix}")
        arguments = [
            "batch-test",
            str(file),
            f"--model={confined('model', model, self.places)}",
            f"--to={to}",
        ]
        if reward:
            arguments.append(f"--rewards={confined('rewards', reward, self.places)}")
        arguments += [*(["--with-base"] if with_base else []), *flags, "--output", str(self.places.output)]
        return self.jobs.command(
            "batch-test", arguments, {"name": file.name, "unit": "prompts"}, run_id=run_id
        )
