"""Rewards: the catalogue, a composition, and a try on completions."""

from __future__ import annotations

import json
from typing import Any

import reflex as rx

from bp_ui.state.told import Told, services, work
from bp_ui.state.words import number

COMPOSED = "what is composed here"
EXAMPLE = """{"prompt": "What is 6 times 7?", "completion": "<think>6 * 7</think> The answer is 42.", "reference": "42"}
{"prompt": "What is 6 times 7?", "completion": "It is 41.", "reference": "42"}"""


class Rewards(Told, rx.State):
    """The catalogue and what is tried."""

    rewards: list[dict[str, str]] = []
    presets: list[dict[str, str]] = []
    sets: list[str] = []
    rewards_named: list[str] = []
    names: list[str] = []
    name: str = ""
    parts: list[dict[str, str]] = []
    adding: str = ""
    set_name: str = ""
    rows: str = EXAMPLE
    scores: list[dict[str, str]] = []
    mean: str = ""
    verdict: str = ""
    verdict_look: str = ""
    advice: list[str] = []
    spread: list[dict[str, str]] = []
    ready: bool = False

    @rx.event
    async def load(self):
        """Read the catalogue."""
        with self.telling():
            from bp_ui.service.rewards import catalogue

            told = await work(catalogue)
            self.rewards, self.presets = told["rewards"], told["presets"]
            self.rewards_named = [r["name"] for r in self.rewards]
            self.adding = self.adding or self.rewards[0]["name"]
            await self._list()
            self.name = self.name or ("numeric_match" if "numeric_match" in self.names else self.names[0])
        self.ready = True

    async def _list(self) -> None:
        self.sets = await work(services().rewards.list)
        known = [*(p["name"] for p in self.presets), *(r["name"] for r in self.rewards)]
        self.names = [*([COMPOSED] if self.parts else []), *self.sets, *known]

    @rx.event
    def choose(self, name: str):
        """Choose what is tried."""
        self.name = name
        self._forget()

    def _forget(self) -> None:
        self.scores, self.verdict, self.advice, self.spread = [], "", [], []

    @rx.event
    def put_rows(self, text: str):
        """The completions."""
        self.rows = text
        self._forget()

    @rx.event
    def choose_part(self, name: str):
        """Choose the reward that is added next."""
        self.adding = name

    @rx.event
    async def add(self, name: str):
        """Add a reward to the composition, and try that."""
        self.parts = [*self.parts, {"use": name or self.adding, "weight": "1"}]
        await self._changed()

    @rx.event
    async def remove(self, place: int):
        """Take a reward out of the composition."""
        self.parts = [p for i, p in enumerate(self.parts) if i != place]
        await self._changed()

    @rx.event
    async def weigh(self, place: int, weight: str):
        """Give a reward another weight."""
        self.parts = [{**p, "weight": weight.strip()} if i == place else p for i, p in enumerate(self.parts)]
        await self._changed()

    async def _changed(self) -> None:
        await self._list()
        self.name = COMPOSED if self.parts else (self.name if self.name in self.names else self.names[0])
        self._forget()

    @rx.event
    def put_set_name(self, name: str):
        """Name the composition."""
        self.set_name = name.strip()

    @rx.event
    async def save(self):
        """Keep the composition under its name."""
        with self.telling():
            path = await work(services().rewards.save, self.set_name, self._parts())
            await self._list()
            self.notice = f"Kept as {path}"

    @rx.event
    async def open_set(self, name: str):
        """Take a kept set into the composition."""
        if not name:
            return
        with self.telling():
            told = await work(services().rewards.load, name)
            self.parts = [{"use": str(p["use"]), "weight": f"{p.get('weight', 1):g}"} for p in told]
            self.set_name = name
            await self._changed()

    @rx.event
    async def delete_set(self, name: str):
        """Delete a kept set."""
        with self.telling():
            await work(services().rewards.delete, name)
            await self._changed()
            self.notice = f"{name} is deleted"

    def _parts(self) -> list[dict[str, Any]]:
        from bp_ui.errors import BpError

        try:
            return [{"use": p["use"], "weight": float(p["weight"])} for p in self.parts]
        except ValueError:
            raise BpError("INPUT_UI_REQUEST", "a weight is no number", "write a number such as 0.5") from None

    @rx.event
    async def test(self):
        """Score the completions."""
        self._forget()
        with self.telling():
            from bp_ui.service.rewards import score

            rows = rows_of(self.rows)
            told = await work(score, await work(self._made), rows)
            self.mean = number(told["mean"])
            self.scores = [
                {
                    "completion": str(r["completion"])[:200],
                    "total": number(s["total"]),
                    "parts": ", ".join(f"{k} {number(v)}" for k, v in s["components"].items()),
                }
                for r, s in zip(rows, told["scores"], strict=True)
            ]

    @rx.event
    async def cover(self):
        """Whether the completions of one prompt are told apart."""
        self._forget()
        with self.telling():
            from bp_ui.service.rewards import coverage

            told = await work(coverage, await work(self._made), rows_of(self.rows))
            self.verdict = told["verdict"]
            self.verdict_look = "fits" if told["verdict"] == "signal" else "tight" if told["ok"] else "large"
            self.advice = list(told["advice"])
            self.spread = [
                {
                    "name": name,
                    "mean": number(s["mean"], 3),
                    "within": number(s["within"], 3),
                    "equal": f"{s['zero_variance']:.0%}",
                    "ends": f"{s['floor']:.0%} / {s['ceiling']:.0%}",
                }
                for name, s in (("total", told["total"]), *told["components"].items())
            ]

    def _made(self) -> Any:
        return services().rewards.made(self._parts() if self.name == COMPOSED else self.name)


def rows_of(text: str) -> list[dict[str, Any]]:
    """JSON lines as rows; `completions`, a list, becomes a row each.

    Raises:
        BpError: `INPUT_UI_REQUEST` for a line that is no object.
    """
    from bp_ui.errors import BpError

    rows: list[dict[str, Any]] = []
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise BpError("INPUT_UI_REQUEST", f"line {place} is no JSON", "write one object a line") from None
        if not isinstance(row, dict):
            raise BpError("INPUT_UI_REQUEST", f"line {place} is no object", "write one object a line")
        many = row.pop("completions", None)
        rows += [{**row, "completion": c} for c in many] if isinstance(many, list) else [row]
    return rows
