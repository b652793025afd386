"""Where the UI reads and writes, what a run takes where nothing is given, saved configurations."""

from __future__ import annotations

from typing import Any

import reflex as rx

from bp_ui.state.told import Told, put, services, work


class Settings(Told, rx.State):
    """Read alone, but for the saved configurations."""

    places: list[dict[str, str]] = []
    rows: list[dict[str, str]] = []
    changed_only: bool = False
    configs: list[dict[str, str]] = []
    prompts: list[str] = []
    prompt_name: str = ""
    prompt: str = ""
    known_prompts: list[str] = []
    versions: list[dict[str, str]] = []
    secrets: list[dict[str, str]] = []
    has_keyring: bool = False
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
            await self._secrets()
            self.versions = await work(_versions)
            await self._configs()
            await self._rows()
        self.ready = True

    async def _configs(self) -> None:
        from bp_core.rewards.presets import PROMPTS

        self.prompts = await work(services().templates.list)
        self.known_prompts = list(PROMPTS)
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

    async def _secrets(self) -> None:
        from bp_ui.service import secrets

        self.has_keyring = await work(secrets.keyring) is not None
        self.secrets = await work(secrets.status)

    @rx.event
    async def keep_secret(self, form: dict[str, Any]):
        """Keep a secret in the keyring; its value stays in no variable of the page."""
        with self.telling():
            from bp_ui.service import secrets

            await work(secrets.put, str(form.get("name", "")), str(form.get("value", "")))
            await self._secrets()
            self.notice = f"{form.get('name')} is in the keyring: jobs that are started here get it"

    @rx.event
    async def forget_secret(self, name: str):
        """Take a secret out of the keyring."""
        with self.telling():
            from bp_ui.service import secrets

            await work(secrets.delete, name)
            await self._secrets()
            self.notice = f"{name} is no longer in the keyring"

    @rx.event
    def put_prompt(self, name: str, value: str):
        """Name or text of the system prompt to save."""
        put(self, name, value.strip())

    @rx.event
    async def save_prompt(self):
        """Save the system prompt under its name."""
        with self.telling():
            await work(_save_prompt, self.prompt_name, self.prompt)
            await self._configs()
            self.notice = f"Saved as {self.prompt_name}: the Playground and --prompt-template take it"

    @rx.event
    async def open_prompt(self, name: str):
        """Look at a saved system prompt, or at one that comes with the rewards."""
        from bp_core.rewards.prompt_templates import template_named

        with self.telling():
            self.prompt_name = name
            self.prompt = (await work(template_named, name, services().places.output)).system

    @rx.event
    async def delete_prompt(self, name: str):
        """Delete a saved system prompt."""
        with self.telling():
            await work(services().templates.remove, name)
            await self._configs()
            self.notice = f"{name} is deleted"

    @rx.event
    async def delete(self, name: str):
        """Delete a saved configuration."""
        with self.telling():
            await work(services().configs.delete, name)
            await self._configs()
            self.notice = f"{name} is deleted"


def _save_prompt(name: str, system: str) -> None:
    """Save a system prompt; the form that a template of that name has beside it stays."""
    import dataclasses

    from bp_core.rewards.presets import Prompt

    saved = services().templates
    before = saved.load(name) if name in saved.list() else Prompt("")
    saved.save(name, dataclasses.replace(before, system=system))


def _origins() -> list[dict[str, str]]:
    from bp_core.settings.resolve import explain, resolve
    from bp_core.support.redact import redact

    told = explain(resolve(folder=services().places.start))
    return [
        {"name": n, "value": str(redact({n: v})[n]) or "decided by the run", "source": s} for n, v, s in told
    ]


def _versions() -> list[dict[str, str]]:
    from bp_core.support.environment import versions

    return [{"name": n, "value": v} for n, v in versions().items()]
