"""Evaluations: what is asked, and the results that are there."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.library import adapter_rows
from bp_ui.state.told import Told, put, services, work
from bp_ui.state.words import brief, number


class Evaluate(Told, rx.State):
    """What is asked, and the results."""

    adapters: list[dict[str, str]] = []
    names: list[str] = []
    run_id: str = ""
    vs: str = "base"
    gate: str = ""
    eval_set: str = ""
    samples: str = "64"
    jobs: list[dict[str, str]] = []
    shown: str = ""
    figures: list[dict[str, str]] = []
    answers: list[dict[str, str]] = []
    clusters: list[dict[str, str]] = []
    verdict: str = ""
    ready: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Read adapters and results again and again until the page is closed."""
        while True:
            adapters, jobs = await work(adapter_rows), await work(_jobs)
            async with self:
                self.adapters, self.jobs = adapters, jobs
                self.names = [a["run_id"] for a in adapters]
                if self.run_id not in self.names:
                    self.run_id = self.names[0] if self.names else ""
                done = [j["run_id"] for j in jobs if j["status"] == "completed"]
                if done and self.shown not in done:
                    self._show(done[0], await work(_result, done[0]))
                self.ready = True
            await asyncio.sleep(1.5)

    @rx.event
    def put(self, name: str, value: str):
        """Set one value."""
        put(self, name, value.strip())

    @rx.event
    async def start(self):
        """Start the evaluation."""
        with self.telling():
            from bp_ui.errors import BpError
            from bp_ui.service.evaluations import start_evaluation

            if not self.samples.isdigit():
                raise BpError(
                    "INPUT_UI_REQUEST", f"{self.samples!r} is no number of rows", "write a whole number"
                )
            run_id = await work(
                start_evaluation,
                services(),
                self.run_id,
                vs=self.vs,
                gate_against=self.gate,
                eval_set=self.eval_set,
                num_samples=int(self.samples),
            )
            self.notice = f"{run_id} evaluates {self.run_id}"

    @rx.event
    async def show(self, run_id: str):
        """Show another result."""
        with self.telling():
            self._show(run_id, await work(_result, run_id))

    def _show(self, run_id: str, told: dict[str, Any]) -> None:
        from bp_ui.service.evaluations import figures

        self.shown = run_id
        self.figures = [
            {
                "name": n,
                "value": number(v),
                "interval": f"{number(ci[0])} to {number(ci[1])}" if ci else "",
                "baseline": number(b),
            }
            for n, v, ci, b in figures(told)
        ]
        self.answers = [
            {
                "prompt": str(g.get("prompt", ""))[:600],
                "answer": str(g.get("answer", ""))[:1200],
                "baseline": str(g.get("baseline_answer", ""))[:1200],
            }
            for g in (told.get("generations") or [])[:12]
        ]
        self.clusters = [
            {
                "count": str(c.get("count", "")),
                "pattern": str(c.get("pattern", "")),
                "advice": str(c.get("advice", "")),
            }
            for found in (told.get("clusters") or {}).values()
            for c in found[:5]
        ]
        self.verdict = "" if told.get("passed") is None else "pass" if told["passed"] else "fail"


def _jobs() -> list[dict[str, str]]:
    return [brief(r) for r in services().runs.list(kind="eval", limit=12) if r["kind"] == "eval"]


def _result(run_id: str) -> dict[str, Any]:
    return services().runs.store.get(run_id).result
