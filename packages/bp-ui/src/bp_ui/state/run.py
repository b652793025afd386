"""One run: status, progress, events, log, files, requests."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from bp_ui.state.told import Told, services, work
from bp_ui.state.words import brief, duration, number, size

LIVE = ("starting", "queued", "preparing", "running", "paused")
LOG_LINES = 100
TEXT = ("reason", "verify", "quantization", "format", "base_model")


class Run(Told, rx.State):
    """The run that the address names."""

    run_id: str = ""
    found: bool = False
    ready: bool = False
    head: dict[str, str] = {}
    figures: list[dict[str, str]] = []
    settings: list[dict[str, str]] = []
    result: list[dict[str, str]] = []
    events: list[dict[str, str]] = []
    files: list[dict[str, str]] = []
    log: str = ""
    is_live: bool = False
    trains: bool = False
    can_resume: bool = False
    has_adapter: bool = False
    smooth: bool = True
    can_replay: bool = False
    doomed: bool = False

    @rx.event(background=True)
    async def follow(self):
        """Look at the run until it has ended or the page is closed."""
        async with self:
            self.run_id = self.router.url.query_parameters.get("id", "")
            self.ready = self.found = self.doomed = False
            self.notice = self.error_code = self.error_message = ""
            run_id = self.run_id
        last: Any = None
        while run_id:
            told, error = await work(_look, run_id)
            if (told, str(error)) != last:
                last = (told, str(error))
                async with self:
                    if self.run_id != run_id:
                        return
                    self._show(told, error)
            if error is not None or told["status"] not in LIVE:
                await asyncio.sleep(3)  # it may be resumed, here or elsewhere
            await asyncio.sleep(1)
        async with self:
            self.ready = True

    def _show(self, told: dict[str, Any], error: Any) -> None:
        self.ready = True
        if error is not None:
            self.found = False
            self.error_code, self.error_message, self.error_hint = error.code, error.message, error.hint
            return
        self.found, self.head = True, {**told["head"], "log_lines": ""}
        self.figures, self.events, self.files = told["figures"], told["events"], told["files"]
        self.settings, self.result, self.log = told["settings"], told["result"], told["log"]
        self.is_live, self.trains = told["status"] in LIVE, told["kind"] == "train"
        self.can_resume = told["kind"] in ("train", "multi-run") and told["status"] in (
            "stopped",
            "interrupted",
            "crashed",
            "failed",
        )
        self.has_adapter = told["has_adapter"]
        self.can_replay = told["kind"] in ("train", "multi-run") and told["status"] != "starting"

    @rx.event
    async def ask(self, action: str):
        """Ask the run for something."""
        with self.telling():
            await work(services().runs.ask, self.run_id, action)
            self.notice = {
                "pause": "It pauses after this step",
                "resume": "It goes on",
                "stop": "It stops after this step, without a new checkpoint",
                "stop-and-save": "It saves a checkpoint after this step and stops",
            }.get(action, "")

    @rx.event
    async def rename(self, name: str):
        """Name the run beside its id."""
        if name.strip() != self.head.get("name", ""):
            with self.telling():
                await work(services().runs.rename, self.run_id, name)
                self.head = {**self.head, "name": " ".join(name.split())}

    @rx.event
    async def replay(self, form: dict[str, Any]):
        """Train again with these settings, some of them changed."""
        with self.telling():
            from bp_core.runs.replay import parse_overrides

            lines = [
                line
                for line in str(form.get("overrides", "")).replace(",", "\n").splitlines()
                if line.strip()
            ]
            run_id = await work(services().runs.replay, self.run_id, parse_overrides(lines))
            return rx.redirect(f"/run/?id={run_id}")

    @rx.event
    def doom(self, value: bool):
        """Ask once more before the run is deleted."""
        self.doomed = value

    @rx.event
    async def delete(self):
        """Delete the run and what it holds."""
        self.doomed = False
        with self.telling():
            await work(services().runs.delete, [self.run_id])
            return rx.redirect("/runs/")

    @rx.event
    def change_smooth(self, value: bool):
        """Draw the mean, or the raw curve alone."""
        self.smooth = value


def _look(run_id: str) -> tuple[dict[str, Any], Any]:
    from bp_merge.common import is_coded

    found = services()
    try:
        run = found.runs.get(run_id)
        log = found.runs.log(run_id) if run["status"] != "starting" else ""
    except Exception as error:
        if not is_coded(error):
            raise
        return {}, error
    return _told(run, log), None


def _told(run: dict[str, Any], log: str) -> dict[str, Any]:
    latest = {name: value for name, (_, value) in run["latest"].items()}
    result = run.get("result") or {}
    left = ""
    done, total, seconds = run.get("done") or 0, run.get("total"), run.get("seconds") or 0
    if run["status"] == "running" and total and done >= 2:
        left = duration(seconds / done * (total - done))
    figures = [
        ("Loss", number(latest.get("loss"))),
        ("Held-out loss", number(latest.get("heldout_loss"))),
        ("Reward", number(latest.get("reward"))),
        ("Tokens a second", number(latest.get("tokens_per_second"), 3)),
        ("Time so far" if run["status"] in LIVE else "Took", duration(run.get("seconds"))),
        ("About left", left),
    ]
    head = brief(run)
    return {
        "status": run["status"],
        "kind": run.get("kind") or "",
        "head": head,
        "figures": [{"name": n, "value": v} for n, v in figures if v and v != "–"],
        "settings": [
            {
                "name": f"{group}.{name}",
                "value": ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            }
            for group, values in (run.get("config") or {}).items()
            if isinstance(values, dict)
            for name, value in values.items()
            if (run.get("sources") or {}).get(f"{group}.{name}", "given") != "default"
            and value not in (None, "", [])
        ],
        "result": [{"name": n.replace("_", " "), "value": v} for n, v in _result(result)],
        "events": [
            {
                "time": str(e["time"])[11:19],
                "step": str(e["step"]),
                "code": e["code"],
                "message": e["message"],
            }
            for e in reversed(run["events"])
        ],
        "files": [_file(run, a) for a in run["artifacts"] if a["exists"]],
        "log": "\n".join(log.splitlines()[-LOG_LINES:]),
        "has_adapter": any(a["kind"] == "adapter" and a["exists"] for a in run["artifacts"]),
    }


def _result(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in result.items():
        if name.endswith("bytes") or name == "peak_memory":
            rows.append((name, size(value)))
        elif isinstance(value, bool | str):
            rows.append((name, str(value)[:400]))
        elif isinstance(value, int | float):
            rows.append((name, number(value)))
        elif isinstance(value, dict) and name in ("verify", "verification", "checks"):
            rows += [
                (f"{name} {k}", str(v)[:200])
                for k, v in value.items()
                if isinstance(v, str | int | float | bool)
            ]
    return [(n, v) for n, v in rows if v not in ("", "–") and n not in ("run_id", "status", "schema_version")]


def _file(run: dict[str, Any], artifact: dict[str, Any]) -> dict[str, str]:
    from pathlib import Path

    path, folder = Path(artifact["path"]), Path(run["path"])
    inside = path.is_file() and path.is_relative_to(folder)
    href = f"/api/v1/runs/{run['run_id']}/files/{path.relative_to(folder).as_posix()}" if inside else ""
    return {"kind": artifact["kind"], "name": path.name, "path": str(path), "href": href}
