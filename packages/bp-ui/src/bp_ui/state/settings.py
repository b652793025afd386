"""Where the UI reads and writes, what a run takes where nothing is given, saved configurations."""

from __future__ import annotations

import reflex as rx

from bp_ui.state.told import Told, services, work


class Settings(Told, rx.State):
    """Read alone, but for the saved configurations."""

    places: list[dict[str, str]] = []
    rows: list[dict[str, str]] = []
    changed_only: bool = False
    configs: list[dict[str, str]] = []
    versions: list[dict[str, str]] = []
    secrets: list[dict[str, str]] = []
    ready: bool = False

    @rx.event
    async def load(self):
        """Read everything."""
        with self.telling():
            found = services()
            places = found.places
            self.places = [
                {"name": "Writes to", "value": str(places.output)},
                {"name": "Started in", "value": str(places.start)},
                {"name": "Reads from", "value": ", ".join(str(r) for r in places.roots)},
            ]
            self.secrets = await work(_secrets)
            self.versions = await work(_versions)
            await self._configs()
            await self._rows()
        self.ready = True

    async def _configs(self) -> None:
        self.configs = [
            {"name": n, "href": f"/train/?config={n}"} for n in await work(services().configs.list)
        ]

    async def _rows(self) -> None:
        rows = await work(_origins)
        self.rows = [r for r in rows if not self.changed_only or r["source"] != "default"]

    @rx.event
    async def change_shown(self, value: bool):
        """Show only what is not a default."""
        self.changed_only = value
        await self._rows()

    @rx.event
    async def delete(self, name: str):
        """Delete a saved configuration."""
        with self.telling():
            await work(services().configs.delete, name)
            await self._configs()
            self.notice = f"{name} is deleted"


def _origins() -> list[dict[str, str]]:
    from bp_core.settings.resolve import explain, resolve
    from bp_core.support.redact import redact

    told = explain(resolve(folder=services().places.start))
    return [
        {"name": n, "value": str(redact({n: v})[n]) or "decided by the run", "source": s} for n, v, s in told
    ]


def _secrets() -> list[dict[str, str]]:
    """Which secrets the jobs would find in the environment, by name alone."""
    import os

    names = (
        ("HF_TOKEN", "private and gated models and datasets of the Hub"),
        ("WANDB_API_KEY", "the tracker wandb"),
        ("OPENAI_API_KEY", "rewards that a model judges"),
    )
    return [
        {"name": n, "value": ("set" if os.environ.get(n) else "not set") + f"; used for {use}"}
        for n, use in names
    ]


def _versions() -> list[dict[str, str]]:
    from bp_core.support.environment import versions

    return [{"name": n, "value": v} for n, v in versions().items()]
