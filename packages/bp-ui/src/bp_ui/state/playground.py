"""The model that answers, how it answers, and batch tests; the chat itself goes past the state."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import reflex as rx

from bp_ui.state.library import adapter_rows
from bp_ui.state.told import Told, put, services, work
from bp_ui.state.words import brief

# of a knob → of the protocol of chat completions; the first ones are shown at once
PROTOCOL = {"temperature": "temperature", "max_new_tokens": "max_tokens", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty", "seed": "seed", "stop": "stop"}  # fmt: skip


class Playground(Told, rx.State):
    """What is chosen, and what answers."""

    models: list[dict[str, str]] = []
    model: str = ""
    backend: str = "auto"
    serving: str = ""
    status: str = ""
    answers: bool = False
    fields: list[dict[str, str]] = []
    values: dict[str, str] = {}
    sampling: str = "{}"
    system: str = ""
    templates: list[str] = []
    compare: bool = False
    rewards: list[str] = []
    reward: str = ""
    expected: str = ""
    prompts: str = ""
    datasets: list[dict[str, str]] = []
    form: str = "csv"
    with_base: bool = False
    batches: list[dict[str, str]] = []
    ready: bool = False

    @rx.event
    async def load(self):
        """What can be chosen."""
        with self.telling():
            from bp_core.settings.groups.generation import GenerationSettings

            from bp_ui.service.forms import fields_of
            from bp_ui.service.rewards import catalogue

            found = services()
            told = await work(fields_of, GenerationSettings)
            by_name = {f["name"]: f for f in told}
            self.fields = [
                {k: str(by_name[n][k]) for k in ("name", "label", "help", "unit", "default")}
                for n in PROTOCOL
            ]
            rewards = await work(catalogue)
            self.rewards = [
                *(await work(found.rewards.list)),
                *(p["name"] for p in rewards["presets"]),
                *(r["name"] for r in rewards["rewards"]),
            ]
            self.datasets = [{"path": d["path"], "name": d["name"]} for d in await work(found.datasets.list)]
            self.templates = await work(found.templates.list)
            self.model = self.router.url.query_parameters.get("run", "") or self.model
        return Playground.follow

    @rx.event(background=True, supersedes=True)
    async def follow(self):
        """Watch what answers until the page is closed."""
        while True:
            models, serving, batches = (
                await work(_models),
                await work(services().chats.serving),
                await work(_batches),
            )
            async with self:
                if self.models != models:
                    self.models = models
                if self.batches != batches:
                    self.batches = batches
                if serving is None and self.status and not self.answers:
                    self._refused()
                self.status = serving["status"] if serving else ""
                self.serving = (serving["model"] or self.serving) if serving else ""
                self.answers = bool(serving and serving["ready"])
                if not self.model:
                    self.model = self.serving or (models[0]["id"] if models else "")
                self.ready = True
            await asyncio.sleep(1)

    _job: str = ""

    def _refused(self) -> None:
        """Why a model that was asked to answer does not."""
        error = services().jobs.told_error(self._job) if self._job else None
        if error is not None:
            self.error_code, self.error_message, self.error_hint = error.code, error.message, error.hint

    @rx.event
    def choose(self, model: str):
        """Choose a model."""
        self.model = model.strip()

    @rx.event
    def choose_backend(self, backend: str):
        """Choose where it computes."""
        self.backend = backend

    @rx.event
    async def serve(self):
        """Let the chosen model answer."""
        with self.telling():
            self._job = await work(services().chats.start, self.model, backend=self.backend)
            self.status, self.serving, self.answers = "starting", self.model, False

    @rx.event
    async def stop(self):
        """End the model that answers."""
        with self.telling():
            await work(services().chats.stop)
            self._job, self.status = "", ""

    @rx.event
    def put(self, name: str, value: str):
        """Set one sampling control; an empty one takes the default."""
        from bp_core.settings.groups.generation import GenerationSettings
        from bp_merge.common import knobs

        with self.telling():
            from bp_ui.errors import BpError

            knob = next(k for k in knobs(GenerationSettings) if k.name == name)
            values = {k: v for k, v in {**self.values, name: value.strip()}.items() if v}
            try:
                read = {PROTOCOL[k]: knob_value(k, v) for k, v in values.items()}
            except ValueError as error:
                raise BpError(
                    "CONFIG_INVALID_SETTING", f"{knob.name} {error}", "backprop generate --help"
                ) from None
            self.values, self.sampling = values, json.dumps(read)

    @rx.event
    def change(self, name: str, value: str | bool):
        """Set what is chosen beside the chat."""
        put(self, name, value)

    @rx.event
    async def take_template(self, name: str):
        """Take a saved system prompt."""
        if name:
            with self.telling():
                self.system = (await work(services().templates.load, name)).system

    @rx.event
    async def batch(self):
        """Ask every prompt of a file."""
        with self.telling():
            chosen = [
                f"--{n.replace('_', '-')}={v}" for n, v in self.values.items() if n in ("temperature", "max_new_tokens", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
            ]  # fmt: skip
            chosen += [f"--system={self.system}"] if self.system else []
            run_id = await work(
                services().chats.batch,
                self.model,
                self.prompts,
                suffix=f".{self.form}",
                with_base=self.with_base,
                reward=self.reward,
                flags=tuple(chosen),
            )
            self.notice = f"{run_id} asks {self.model}"


def knob_value(name: str, text: str) -> Any:
    """A value of a sampling control, read as its knob reads it.

    Raises:
        ValueError: it cannot be one.
    """
    from bp_core.settings.groups.generation import GenerationSettings
    from bp_merge.common import knobs

    knob = next(k for k in knobs(GenerationSettings) if k.name == name)
    value = knob.read(text)
    return list(value) if knob.many else value


def _models() -> list[dict[str, str]]:
    """Runs that train and have a checkpoint, then adapters, then base models of the cache and the embedded one."""
    found = services()
    live = [
        {"id": r["run_id"], "label": f"{r['run_id']}: newest checkpoint while it trains"}
        for r in found.runs.list(status="live", kind="train")
        if r["kind"] == "train" and found.runs.has_checkpoint(r["run_id"])
    ]
    tuned = [{"id": a["run_id"], "label": a["label"]} for a in adapter_rows()]
    base = [{"id": m["id"], "label": f"{m['id']} (base model)"} for m in found.models.cached()]
    return [*live, *tuned, *base, {"id": "tiny", "label": "tiny (base model)"}]


def _batches() -> list[dict[str, str]]:
    rows = []
    for run in services().runs.list(kind="batch-test", limit=6):
        if run["kind"] != "batch-test":
            continue
        row = brief(run)
        made = (
            sorted(services().runs.store.get(run["run_id"]).path.glob("answers.*"))
            if run["status"] == "completed"
            else []
        )
        row["file"] = f"/api/v1/runs/{run['run_id']}/files/{made[0].name}" if made else ""
        row["file_name"] = made[0].name if made else ""
        rows.append(row)
    return rows
