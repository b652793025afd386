"""Models, exports, merges: what is there, and the jobs that make more of it."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.told import Told, put, services, work
from bp_ui.state.words import ago, brief, size


def adapter_rows() -> list[dict[str, str]]:
    """Adapters as text."""
    return [
        {
            "run_id": a["run_id"],
            "label": f"{a['run_id']} ({a['base']}, {ago(a['created_at'])})",
            "path": a["path"],
            "base": a["base"],
            "status": a["status"],
            "made": ago(a["created_at"]),
            "size": size(a["bytes"]),
            "exported": a["exported"] or "nothing yet",
            "picked": "",
        }
        for a in services().models.adapters()
    ]


def jobs_of(*kinds: str) -> list[dict[str, str]]:
    """The newest jobs of some kinds as text."""
    found = services()
    rows: list[dict[str, str]] = []
    for kind in kinds:
        for run in found.runs.list(kind=kind, limit=10):
            if run["kind"] != kind:
                continue
            row = brief(run)
            result = {} if run["status"] == "starting" else found.runs.store.get(run["run_id"]).result
            row["made_path"] = str(result.get("path") or result.get("output") or "")
            row["size"] = size(result.get("bytes") or result.get("size"))
            row["said"] = str(result.get("error") or result.get("verified") or "")
            rows.append(row)
    return rows


class Models(Told, rx.State):
    """What is there."""

    adapters: list[dict[str, str]] = []
    cached: list[dict[str, str]] = []
    known: list[dict[str, str]] = []
    shelf: list[dict[str, str]] = []
    asking: bool = False
    asked: bool = False
    ready: bool = False

    @rx.event
    async def load(self):
        """Read the lists."""
        with self.telling():
            found = services()
            self.adapters = await work(adapter_rows)
            self.cached = [{"id": m["id"], "size": size(m["bytes"])} for m in await work(found.models.cached)]
            told = await work(found.system.read)
            self.known = [
                {
                    "family": m["family"],
                    "id": m["id"],
                    "size": f"{m['billions']:g} B",
                    "licence": m["licence"],
                    "fits": m["fits"],
                    "look": {"fits": "fits", "tight": "tight", "too large": "large"}.get(m["fits"], ""),
                    "href": f"/train/?model={m['id']}",
                }
                for m in found.models.families(told["gpu_memory_total"])
            ]
        self.ready = True

    @rx.event(background=True)
    async def ask_ollama(self):
        """Read what Ollama has."""
        async with self:
            if self.asking:
                return
            self.asking = True
        try:
            found, error = await work(services().models.ollama), None
        except Exception as caught:
            from bp_merge.common import is_coded

            if not is_coded(caught):
                raise
            found, error = [], caught
        finally:
            async with self:
                self.asking = False
        async with self:
            with self.telling():
                if error is not None:
                    raise error
                self.asked = True
                self.shelf = [
                    {
                        "name": m["name"],
                        "base": m["base"],
                        "size": size(m["bytes"]),
                        "type": m["quantization"],
                    }
                    for m in found
                ]


HUB = "to the Hub"


class Export(Told, rx.State):
    """From an adapter to a file that runs elsewhere."""

    adapters: list[dict[str, str]] = []
    jobs: list[dict[str, str]] = []
    run_id: str = ""
    format: str = "gguf"
    quantization: str = "q4_k_m"
    verify: bool = False
    ollama: bool = False
    ollama_name: str = ""
    repo: str = ""
    private: bool = True
    ready: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Read the lists again and again until the page is closed."""
        async with self:
            asked = self.router.url.query_parameters.get("run", "")
        while True:
            adapters, jobs = await work(adapter_rows), await work(jobs_of, "export", "push")
            async with self:
                self.adapters, self.jobs = adapters, jobs
                names = [a["run_id"] for a in adapters]
                if self.run_id not in names:
                    self.run_id = asked if asked in names else names[0] if names else ""
                self.ready = True
            await asyncio.sleep(1.2)

    @rx.event
    def put(self, name: str, value: str):
        """Set one value."""
        put(self, name, value)

    @rx.event
    def switch(self, name: str, value: bool):
        """Set one switch."""
        put(self, name, value)

    @rx.event
    async def start(self):
        """Start the export."""
        with self.telling():
            from bp_ui.service.exports import start_export, start_push

            if self.format == HUB:
                run_id = await work(start_push, services(), self.run_id, self.repo, private=self.private)
                self.notice = f"{run_id} pushes {self.run_id} to {self.repo}"
                return
            values: dict[str, Any] = {"format": self.format}
            if self.format == "gguf":
                values |= {"quantization": self.quantization, "verify": self.verify, "ollama": self.ollama}
                if self.ollama and self.ollama_name:
                    values["ollama_name"] = self.ollama_name
            run_id = await work(start_export, services(), self.run_id, values)
            self.notice = f"{run_id} exports {self.run_id} as {self.format}"


class Merge(Told, rx.State):
    """Several adapters of one base as one."""

    adapters: list[dict[str, str]] = []
    picked: list[str] = []
    methods: list[dict[str, str]] = []
    method: str = "linear"
    about: str = ""
    name: str = "merged"
    jobs: list[dict[str, str]] = []
    ready: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Read the lists again and again until the page is closed."""
        methods = await work(_methods)
        while True:
            adapters, jobs = await work(adapter_rows), await work(jobs_of, "merge")
            async with self:
                self.methods, self.jobs = methods, jobs
                self._mark(adapters)
                if not self.about:
                    self._tell()
                self.ready = True
            await asyncio.sleep(2)

    def _mark(self, adapters: list[dict[str, str]]) -> None:
        self.adapters = [{**a, "picked": "yes" if a["run_id"] in self.picked else ""} for a in adapters]

    def _tell(self) -> None:
        self.about = next((m["about"] for m in self.methods if m["name"] == self.method), "")

    @rx.event
    def pick(self, run_id: str):
        """Take an adapter in, or out."""
        self.picked = (
            [r for r in self.picked if r != run_id] if run_id in self.picked else [*self.picked, run_id]
        )
        self._mark(self.adapters)

    @rx.event
    def choose(self, method: str):
        """Choose the method."""
        self.method = method
        self._tell()

    @rx.event
    def put_name(self, name: str):
        """Name the result."""
        self.name = name.strip()

    @rx.event
    async def start(self):
        """Start the merge."""
        with self.telling():
            from bp_ui.service.merges import start_merge

            run_id = await work(start_merge, services(), self.picked, self.method, self.name)
            self.notice = f"{run_id} merges {len(self.picked)} adapters into {self.name}"


def _methods() -> list[dict[str, str]]:
    from bp_merge import get_method, method_names

    found = [get_method(name).describe() for name in method_names()]
    return [
        {"name": m["name"], "about": str(m.get("summary") or m.get("help") or "").split("\n")[0]}
        for m in found
    ]
