"""What every page shows: the machine, and the jobs that go on."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.told import services, work
from bp_ui.state.words import brief, share

EVERY = 2.0  # seconds between two looks


class Shell(rx.State):
    """Sensors and live jobs, looked at while the page is open."""

    gauges: list[dict[str, str]] = []
    live: list[dict[str, str]] = []
    recent: list[dict[str, str]] = []
    datasets: int = 0
    adapters: int = 0
    ready: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Look again and again until the page is closed."""
        while True:
            found = await work(_look)
            async with self:
                if self.gauges != found[0]:
                    self.gauges = found[0]
                if self.live != found[1]:
                    self.live = found[1]
                if self.recent != found[2]:
                    self.recent = found[2]
                self.ready = True
            await asyncio.sleep(EVERY)

    @rx.event
    async def counts(self):
        """How many datasets and adapters there are, for the next step."""
        found = services()
        self.datasets = len(await work(found.datasets.list))
        self.adapters = len(await work(found.models.adapters))


def _look() -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    found = services()
    runs = [brief(r) for r in found.runs.list(limit=12)]
    live = ("starting", "queued", "preparing", "running", "paused")
    return gauges(found.system.read()), [r for r in runs if r["status"] in live], runs[:8]


def gauges(told: dict[str, Any]) -> list[dict[str, str]]:
    """The sensors as names, texts and shares."""
    rows = [
        ("Processor", f"{told['cpu_percent']:.0f} %", told["cpu_percent"] / 100),
        (
            "Memory",
            _of(told["memory_used"], told["memory_total"]),
            told["memory_used"] / told["memory_total"],
        ),
    ]
    if told["gpu_memory_total"]:
        used, total = told["gpu_memory_used"] or 0, told["gpu_memory_total"]
        rows.append(("Card memory", _of(used, total), used / total))
        heat = told["gpu_temperature"]
        watts = f", {told['gpu_power']:.0f} W" if told["gpu_power"] is not None else ""
        busy = told["gpu_utilization"]
        if heat is not None:
            rows.append(("Card", f"{heat:.0f} °C{watts}", (busy or 0) / 100))
    return [{"name": n, "text": t, "share": share(s)} for n, t, s in rows]


def _of(used: float, total: float) -> str:
    return f"{used / 1e9:.1f} of {total / 1e9:.0f} GB"
