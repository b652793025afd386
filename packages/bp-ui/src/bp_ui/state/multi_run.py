"""Sessions of many runs: tasks, start, and what each run did to what was learnt before."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.told import Told, services, work
from bp_ui.state.words import brief, duration, number

OWN = ("model", "steps", "preset", "learning_rate", "seed")
FIRST = ("runs", "merge_strategy", "replay_fraction", "eval_gate", "drift_gate", "on_reject")


class MultiRun(Told, rx.State):
    """The form of a session, and the one that is shown."""

    datasets: list[dict[str, str]] = []
    tasks: str = ""
    values: dict[str, str] = {}
    fields: list[dict[str, str]] = []
    all_shown: bool = False
    sessions: list[dict[str, str]] = []
    shown: str = ""
    head: dict[str, str] = {}
    rounds: list[dict[str, str]] = []
    columns: list[str] = []
    exact: list[list[dict[str, str]]] = []
    loss: list[list[dict[str, str]]] = []
    summary: list[dict[str, str]] = []
    compared: list[dict[str, str]] = []
    member: str = ""
    is_live: bool = False
    can_resume: bool = False
    ready: bool = False

    @rx.event
    async def load(self):
        """The form and the datasets."""
        with self.telling():
            from bp_ui.service.forms import train_form
            from bp_ui.service.sessions import session_form

            run = {f["name"]: f for f in await work(train_form)}
            self._form = [*(run[n] for n in OWN), *(await work(session_form))]
            self.datasets = [
                {"path": d["path"], "name": d["name"]} for d in (await work(services().datasets.list))[:30]
            ]
            self._choose()
            self.shown = self.router.url.query_parameters.get("id", "") or self.shown
        return MultiRun.follow

    _form: list[dict[str, Any]] = []

    def _choose(self) -> None:
        self.fields = [
            {
                **{k: str(v) for k, v in f.items() if k != "choices"},
                "choices": "|".join(f["choices"]),
                "value": self.values.get(f["name"], ""),
                "hint": str(f["default"]) or "decided by the run",
                "head": "",
            }
            for f in self._form
            if self.all_shown or f["name"] in OWN or f["name"] in FIRST
        ]

    @rx.event
    def show_all(self, value: bool):
        """Show every setting of a session, or the first ones."""
        self.all_shown = value
        self._choose()

    @rx.event
    def put(self, name: str, value: str):
        """Set one value; an empty one is taken back."""
        values = {**self.values, name: value.strip()}
        self.values = {k: v for k, v in values.items() if v != ""}
        self._choose()

    @rx.event
    def put_tasks(self, text: str):
        """The datasets, one a line."""
        self.tasks = text

    @rx.event
    def add(self, path: str):
        """One more task."""
        self.tasks = "\n".join([*self.tasks.splitlines(), path])

    @rx.event
    async def start(self):
        """Start the session and show it."""
        with self.telling():
            from bp_ui.service.sessions import start_session

            data = [line.strip() for line in self.tasks.splitlines() if line.strip()]
            run_id = await work(start_session, services(), {**self.values, "data": data})
            self._clear(run_id)
            self.notice = (
                f"{run_id} learns {len(data)} task{'' if len(data) == 1 else 's'}, one after the other"
            )

    def _clear(self, run_id: str) -> None:
        self.shown, self.head, self.member = run_id, {}, ""
        self.rounds, self.columns, self.exact, self.loss, self.summary, self.compared = [], [], [], [], [], []

    @rx.event
    async def show(self, run_id: str):
        """Show another session."""
        self._clear(run_id)
        with self.telling():
            told, error = await work(_look, run_id)
            if error is not None:
                raise error
            self._show(told)

    @rx.event
    async def ask(self, action: str):
        """Stop the session, or go on with it."""
        with self.telling():
            await work(services().runs.ask, self.shown, action)
            self.notice = "It stops after this step, saved" if action == "stop" else "It goes on"

    @rx.event(background=True, supersedes=True)
    async def follow(self):
        """Watch the sessions until the page is closed."""
        while True:
            async with self:
                shown = self.shown
            listed = await work(_sessions)
            if not shown and listed:
                shown = listed[0]["run_id"]
            told, error = await work(_look, shown) if shown else ({}, None)
            async with self:
                if self.sessions != listed:
                    self.sessions = listed
                if self.shown in ("", shown) and shown:
                    self.shown = shown
                    if error is not None:
                        self.error_code, self.error_message, self.error_hint = (
                            error.code,
                            error.message,
                            error.hint,
                        )
                    elif told:
                        self._show(told)
                self.ready = True
            await asyncio.sleep(1.5)

    def _show(self, told: dict[str, Any]) -> None:
        self.head = told["head"]
        for name in (
            "rounds",
            "columns",
            "exact",
            "loss",
            "summary",
            "compared",
            "member",
            "is_live",
            "can_resume",
        ):
            if getattr(self, name) != told[name]:
                setattr(self, name, told[name])


def _sessions() -> list[dict[str, str]]:
    return [brief(r) for r in services().runs.list(kind="multi-run", limit=12) if r["kind"] == "multi-run"]


def _look(run_id: str) -> tuple[dict[str, Any], Any]:
    from bp_merge.common import is_coded

    from bp_ui.service.sessions import session

    found = services()
    try:
        run = found.runs.get(run_id)
        if run["status"] == "starting":
            return {}, None
        told = session(found, run_id)
    except Exception as error:
        if not is_coded(error):
            raise
        return {}, error
    figures = told["figures"] or {"exact_match": [], "loss": []}
    return {
        "head": brief(run),
        "rounds": [_round(r) for r in told["rounds"]],
        "columns": told["tasks"],
        "exact": _cells(figures["exact_match"]),
        "loss": _cells(figures["loss"], lower_is_better=True),
        "summary": _summary(told["summary"]),
        "compared": [
            {
                "name": n,
                "exact": number(row["exact_match"], 3),
                "loss": number(row["loss"], 4),
                "note": ", ".join(
                    text
                    for text, holds in (
                        ("this session", n == told["strategy"]),
                        ("best", n == told["best_strategy"]),
                    )
                    if holds
                ),
            }
            for n, row in told["compared"].items()
        ],
        "member": told["live_member"],
        "is_live": run["status"] in ("queued", "preparing", "running", "paused"),
        "can_resume": run["status"] in ("stopped", "interrupted", "crashed", "failed"),
    }, None


def _round(r: dict[str, Any]) -> dict[str, str]:
    told = [
        f"{k.replace('_', ' ')} {number(v, 3)}" for k, v in r["facts"].items() if isinstance(v, int | float)
    ]
    for name, gate in (r["facts"].get("gate") or {}).items():
        change = f"{name.replace('_', ' ')} {gate['delta']:+.3f} ({gate['low']:+.3f} to {gate['high']:+.3f})"
        told.append(f"gate: {change} on {gate['rows']} rows")
    return {
        "number": str(r["number"]),
        "run_id": r["run_id"],
        "task": r["task"],
        "verdict": "merged" if r["accepted"] else "left out",
        "look": "completed" if r["accepted"] else "warn",
        "why": "; ".join(filter(None, (r["message"], *told))),
        "loss": number(r["loss"]),
        "took": duration(r["seconds"]),
    }


def _cells(matrix: list[list[float | None]], *, lower_is_better: bool = False) -> list[list[dict[str, str]]]:
    """Rows of a table: the row's name, then a figure a task, shaded from the worst of all to the best."""
    known = [v for row in matrix for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def cell(value: float | None) -> dict[str, str]:
        if value is None:
            return {"text": "–", "shade": "0%"}
        share = (value - low) / (high - low) if high > low else 0.0
        return {"text": f"{value:.3f}", "shade": f"{40 * (1 - share if lower_is_better else share):.0f}%"}

    return [
        [{"text": "before" if i == 0 else f"after run {i}", "shade": ""}, *(cell(v) for v in row)]
        for i, row in enumerate(matrix)
    ]


def _summary(told: dict[str, Any] | None) -> list[dict[str, str]]:
    if told is None:
        return []
    names = (
        ("average", "Average"),
        ("backward_transfer", "Backward transfer"),
        ("forward_transfer", "Forward transfer"),
    )
    return [
        {"name": title, "exact": number(told["exact_match"][key], 3), "loss": number(told["loss"][key], 3)}
        for key, title in names
        if told["exact_match"][key] is not None
    ]
