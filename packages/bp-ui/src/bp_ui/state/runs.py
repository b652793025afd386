"""All runs: filter, compare, clean up."""

from __future__ import annotations

import asyncio

import reflex as rx

from bp_ui.state.told import Told, put, services, work
from bp_ui.state.words import brief, number, size

MOST = 6  # runs that are compared


class Runs(Told, rx.State):
    """The list, what is picked of it, and what differs between two."""

    rows: list[dict[str, str]] = []
    status: str = ""
    kind: str = ""
    text: str = ""
    picked: list[str] = []
    overlay: str = ""
    settings: list[dict[str, str]] = []
    outcome: list[dict[str, str]] = []
    inputs: list[str] = []
    storage: list[dict[str, str]] = []
    storage_shown: bool = False
    doomed: str = ""
    ready: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Look at the list until the page is closed."""
        while True:
            async with self:
                asked = {"status": self.status or None, "kind": self.kind or None, "text": self.text}
                picked = list(self.picked)
            found = [brief(r) for r in await work(services().runs.list, **asked)]
            for row in found:
                row["picked"] = "yes" if row["run_id"] in picked else ""
            async with self:
                if self.rows != found and picked == self.picked:
                    self.rows = found
                self.ready = True
            await asyncio.sleep(1.5)

    @rx.event
    async def filter(self, name: str, value: str):
        """Show fewer."""
        put(self, name, value)
        await self._list()

    async def _list(self) -> None:
        asked = {"status": self.status or None, "kind": self.kind or None, "text": self.text}
        found = [brief(r) for r in await work(services().runs.list, **asked)]
        for row in found:
            row["picked"] = "yes" if row["run_id"] in self.picked else ""
        self.rows = found

    @rx.event
    async def pick(self, run_id: str):
        """Take a run into the comparison, or out of it."""
        if run_id in self.picked:
            self.picked = [r for r in self.picked if r != run_id]
        else:
            self.picked = [*self.picked, run_id][-MOST:]
        self.overlay = ",".join(self.picked)
        self.settings, self.outcome, self.inputs = [], [], []
        with self.telling():
            if len(self.picked) == 2:
                told = await work(services().runs.diff, *self.picked)
                self.settings = [
                    {"name": k, "a": str(a), "b": str(b)} for k, (a, b) in told["settings"].items()
                ]
                self.outcome = [
                    {"name": k.replace("_", " "), "a": _value(a), "b": _value(b)}
                    for k, (a, b) in told["outcome"].items()
                ]
                self.inputs = [*told["inputs"], *told["environment"]]
        await self._list()

    @rx.event
    async def show_storage(self):
        """What ended runs hold on the disk."""
        with self.telling():
            self.storage_shown = True
            await self._storage()

    async def _storage(self) -> None:
        self.storage = [
            {
                "run_id": r["run_id"],
                "checkpoints": size(r["checkpoints"]),
                "exports": size(r["exports"]),
                "all": size(r["all"]),
            }
            for r in (await work(services().runs.storage))[:100]
        ]

    @rx.event
    async def clean(self, run_id: str, part: str):
        """Delete checkpoints or exports of an ended run."""
        with self.telling():
            freed = await work(services().runs.clean, [run_id], part)
            await self._storage()
            self.notice = f"{size(freed)} are free again"

    @rx.event
    def doom(self, run_id: str):
        """Ask once more before a run is deleted."""
        self.doomed = run_id

    @rx.event
    async def delete(self, run_id: str):
        """Delete a run and what it holds."""
        self.doomed = ""
        with self.telling():
            await work(services().runs.delete, [run_id])
            self.picked = [r for r in self.picked if r != run_id]
            await self._storage()
            await self._list()
            self.notice = f"{run_id} is deleted"


def _value(value: object) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
