"""Datasets: list, look, map, check."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.tabs import open_tabs
from bp_ui.state.told import Told, services, work
from bp_ui.state.words import ago, number, size


class Data(Told, rx.State):
    """The datasets, the one that is looked at, and the job on it."""

    files: list[dict[str, str]] = []
    catalogue: list[dict[str, str]] = []
    task: str = "All"
    ready: bool = False
    path: str = ""
    name: str = ""
    format: str = ""
    confidence: str = ""
    says: str = ""
    refusal: str = ""
    columns: str = ""
    mapping: str = ""
    proposed: str = ""
    proposed_says: str = ""
    force: bool = False
    looking: bool = False
    turns: list[dict[str, str]] = []
    rejected: list[dict[str, str]] = []
    raw: list[str] = []
    no_token: bool = False
    job: str = ""
    job_kind: str = ""
    job_status: str = ""
    verdict: str = ""
    figures: list[dict[str, str]] = []
    warnings: list[str] = []
    bars: list[dict[str, str]] = []
    made: list[str] = []

    @rx.event
    async def load(self):
        """The lists."""
        with self.telling():
            await self._list()
        self.ready = True

    async def _list(self) -> None:
        from bp_ui.service.catalogue import DATASETS

        self.files = [
            {"path": d["path"], "name": d["name"], "size": size(d["bytes"]), "changed": ago(d["changed_at"])}
            for d in await work(services().datasets.list)
        ]
        self.catalogue = [
            {**{k: str(v) for k, v in d.items()}, "rows": number(d["rows"])}
            for d in DATASETS
            if self.task in ("All", d["task"])
        ]

    @rx.event
    async def choose_task(self, task: str):
        """Show the public sets of one task."""
        self.task = task
        await self._list()

    @rx.event
    async def uploaded(self, path: str):
        """An upload is whole: look at it."""
        await self._list()
        return Data.look(path)

    @rx.event
    async def take(self, path: str, mapping: str):
        """Look at a public set with its field map."""
        self.mapping = mapping
        self.path = path
        await self._look()

    @rx.event
    async def look(self, path: str):
        """Look at another dataset."""
        self.mapping, self.force, self.path = "", False, path
        self.job = self.job_status = self.verdict = ""
        self.figures, self.warnings, self.bars, self.made = [], [], [], []
        await self._look()

    @rx.event
    async def look_again(self, mapping: str):
        """Look with another mapping."""
        self.mapping = mapping.strip()
        await self._look()

    @rx.event
    async def use_proposal(self):
        """Take the proposed mapping."""
        self.mapping = self.proposed
        await self._look()

    @rx.event
    async def change_force(self, value: bool):
        """Read with the best guess, or no longer."""
        self.force = value
        await self._look()

    async def _look(self) -> None:
        self.name, self.format, self.refusal = self.path, "", ""
        self.turns, self.rejected, self.raw = [], [], []
        with self.telling():
            path = (
                f"hf:{self.path}"
                if "/" in self.path and any(c["id"] == self.path for c in self.catalogue)
                else self.path
            )
            self.no_token = path.startswith("hf:") and await work(_no_token)
            told = await work(services().datasets.preview, path, 3, self.mapping or None, self.force)
            self._show(told)

    def _show(self, told: dict[str, Any]) -> None:
        self.path, self.name, self.format = told["path"], told["name"], told["format"] or "not recognised"
        self.confidence, self.says, self.refusal = f"{told['confidence']:.0%}", told["says"], told["refusal"]
        self.columns = ", ".join(told["columns"])
        proposal = told["proposal"] or {}
        self.proposed, self.proposed_says = proposal.get("flag", ""), "; ".join(proposal.get("reasons", ()))
        self.turns = [
            {"row": f"Row {i + 1}" if not n else "", "role": t["role"], "text": t["text"]}
            for i, e in enumerate(told["examples"])
            for n, t in enumerate(e["turns"])
        ]
        self.rejected = [
            {"line": str(r["line"]), "reason": r["reason"], "hint": r["hint"]} for r in told["rejected"]
        ]
        self.raw = told["raw"]

    @rx.event
    async def start(self, action: str):
        """Start a job on the dataset and follow it."""
        with self.telling():
            values = {"map": self.mapping, "force": self.force}
            self.job = await work(services().datasets.start, action, self.path, values)
            self.job_kind, self.job_status, self.verdict = action, "starting", ""
            self.figures, self.warnings, self.bars, self.made = [], [], [], []
            return Data.follow

    @rx.event(background=True)
    async def follow(self):
        """Watch the job to its end."""
        while True:
            async with self:
                job = self.job
                if not job or self.router.session.client_token not in open_tabs():
                    return
            try:
                run = await work(services().runs.get, job)
            except Exception as error:
                from bp_merge.common import is_coded

                if not is_coded(error):
                    raise
                coded: Any = error
                async with self:
                    self.job_status = "failed"
                    self.error_code, self.error_message, self.error_hint = (
                        coded.code,
                        coded.message,
                        coded.hint,
                    )
                return
            async with self:
                if self.job != job:
                    return
                self.job_status = run["status"]
                if run["status"] not in ("starting", "queued", "preparing", "running"):
                    self._show_result(run)
                    await self._list()
                    return
            await asyncio.sleep(0.6)

    def _show_result(self, run: dict[str, Any]) -> None:
        result = run.get("result") or {}
        if run["status"] != "completed":
            error = result.get("error") or run["status"]
            self.error_code, self.error_message = str(result.get("code") or ""), str(error)
            return
        self.verdict = str(result.get("verdict", ""))
        self.warnings = [str(w) for w in result.get("warnings", [])]
        self.figures = [{"name": n, "value": v} for n, v in figures(result)]
        histogram = (result.get("tokens") or {}).get("histogram") or []
        most = max((h[2] for h in histogram), default=0)
        self.bars = [
            {"height": f"{100 * h[2] / most:.0f}%", "text": f"{h[0]} to {h[1]} tokens: {h[2]} rows"}
            for h in histogram[:60]
        ]
        self.made = [
            str(v)
            for k, v in result.items()
            if k in ("output", "train", "heldout", "dropped", "train_path", "heldout_path")
            and isinstance(v, str)
        ]
        done = {
            "report": "The report is ready",
            "validate": "Every row was looked at",
            "clean": "The dataset is cleaned",
            "split": "The dataset is divided",
            "map": "The dataset is rewritten",
        }
        self.notice = done.get(self.job_kind, "Done")


def _no_token() -> bool:
    from bp_ui.service.secrets import status

    return any(s["name"] == "HF_TOKEN" and s["where"] == "not set" for s in status())


def figures(result: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a result that a person looks at first."""
    near, tokens, pii = (
        result.get("near_duplicates") or {},
        result.get("tokens") or {},
        result.get("pii") or {},
    )
    found = [
        ("Rows", result.get("rows_total") or result.get("rows")),
        ("Can be used", result.get("rows_accepted") or result.get("accepted")),
        (
            "Rejected",
            result.get("rows_rejected")
            if "rows_rejected" in result
            else result.get("rejected")
            if isinstance(result.get("rejected"), int)
            else None,
        ),
        ("Exact duplicates", result.get("exact_duplicates")),
        ("Near-duplicates", near.get("pairs") if near else None),
        ("Median tokens", tokens.get("p50")),
        ("95 % of rows are below", tokens.get("p95")),
        ("Rows with personal data or secrets", pii.get("rows") if pii else None),
        ("Kept", result.get("rows_kept") or result.get("kept") or result.get("rows_written")),
        ("Dropped", result.get("rows_dropped") if isinstance(result.get("rows_dropped"), int) else None),
        ("Training rows", result.get("train_rows")),
        ("Held-out rows", result.get("heldout_rows")),
    ]
    return [(name, number(value)) for name, value in found if isinstance(value, int | float)]
