"""Rewards: the catalogue, and a try on completions."""

from __future__ import annotations

import json

import reflex as rx

from bp_ui.state.told import Told, work
from bp_ui.state.words import number

EXAMPLE = """{"prompt": "What is 6 times 7?", "completion": "<think>6 * 7</think> The answer is 42.", "reference": "42"}
{"prompt": "What is 6 times 7?", "completion": "It is 41.", "reference": "42"}"""


class Rewards(Told, rx.State):
    """The catalogue and what is tried."""

    rewards: list[dict[str, str]] = []
    presets: list[dict[str, str]] = []
    names: list[str] = []
    name: str = ""
    rows: str = EXAMPLE
    heads: list[str] = []
    scores: list[dict[str, str]] = []
    mean: str = ""
    ready: bool = False

    @rx.event
    async def load(self):
        """Read the catalogue."""
        with self.telling():
            from bp_ui.service.rewards import catalogue

            told = await work(catalogue)
            self.rewards, self.presets = told["rewards"], told["presets"]
            self.names = [*(p["name"] for p in self.presets), *(r["name"] for r in self.rewards)]
            self.name = self.name or ("numeric_match" if "numeric_match" in self.names else self.names[0])
        self.ready = True

    @rx.event
    def choose(self, name: str):
        """Choose what is tried."""
        self.name, self.scores = name, []

    @rx.event
    def put_rows(self, text: str):
        """The completions."""
        self.rows = text

    @rx.event
    async def test(self):
        """Score the completions."""
        self.scores = []
        with self.telling():
            from bp_ui.errors import BpError
            from bp_ui.service.rewards import score

            rows = []
            for number_of, line in enumerate(self.rows.splitlines(), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise BpError(
                        "INPUT_UI_REQUEST",
                        f"line {number_of} is no JSON: {error.msg}",
                        "write one object a line",
                    ) from None
                if not isinstance(row, dict):
                    raise BpError(
                        "INPUT_UI_REQUEST", f"line {number_of} is no object", "write one object a line"
                    )
                rows.append(row)
            told = await work(score, self.name, rows)
            self.mean = number(told["mean"])
            self.scores = [
                {
                    "completion": str(r["completion"])[:200],
                    "total": number(s["total"]),
                    "parts": ", ".join(f"{k} {number(v)}" for k, v in s["components"].items()),
                }
                for r, s in zip(rows, told["scores"], strict=True)
            ]
