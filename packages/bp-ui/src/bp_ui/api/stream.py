"""The stream: one WebSocket with what changes, of the machine and of runs.

`/api/v1/stream?run=ID&run=ID2` sends JSON messages `{"event": …, "data": …}`:

- `system_update` {cpu_percent, memory_used, …, gpu_memory, gpu_utilization}, every 2 s;
- `training_update` {run_id, status, step, total, loss, reward, …the last value of each metric, points: {metric: [[step, value], …]}}
  when something is new; the first holds all points, later ones what came since;
- `run_event` {run_id, code, message, …} for each entry of the audit trail;
- `training_complete`, `training_error` {run_id, status, error} at the end of a run.

A client that connects again begins anew. Reading costs the store a few milliseconds and the run nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from bp_merge.common import finite, is_coded
from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from bp_ui.service.services import services

router = APIRouter()
EVERY = 0.5
SYSTEM_EVERY = 2.0
MOST_RUNS = 12
LIVE = ("starting", "queued", "preparing", "running", "paused")


class Follower:
    """What one socket was told of one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.after: dict[str, int] = {}
        self.event_id = 0
        self.last: tuple[Any, ...] = ()
        self.ended = False

    def look(self) -> list[dict[str, Any]]:
        """The messages since the last look."""
        runs = services().runs
        try:
            points = runs.metrics(self.run_id, self.after)
            record = runs.store.get(self.run_id)
            events = runs.store.events(self.run_id, after=self.event_id)
        except Exception as error:
            if not is_coded(error):
                raise
            if runs.jobs.is_starting(self.run_id):
                return self._changed({"run_id": self.run_id, "status": "starting", "step": 0}, {})
            self.ended = True
            refused: Any = runs.jobs.refusal(self.run_id) or error
            return [
                {
                    "event": "training_error",
                    "data": {"run_id": self.run_id, "status": "failed", "error": refused.to_dict()},
                }
            ]
        for name, found in points.items():
            self.after[name] = int(found[-1][0] or 0)
        out = []
        for event in events:
            self.event_id = event.id
            out.append({"event": "run_event", "data": {**event.to_dict()}})
        latest = {n: v for n, (_, v) in runs.store.latest(self.run_id).items()} if points else {}
        progress = record.progress
        about = {
            "run_id": self.run_id,
            "kind": record.kind,
            "status": record.status,
            "step": record.step,
            "total": progress.get("total"),
            "done": progress.get("done"),
            "seconds": round(record.seconds, 1),
        }
        out += self._changed(about, points, latest)
        if record.status not in LIVE:
            self.ended = True
            good = record.status in ("completed", "stopped")
            data = {**about, "result": record.result, "error": record.result.get("error")}
            out.append({"event": "training_complete" if good else "training_error", "data": data})
        return out

    def _changed(
        self, about: dict[str, Any], points: dict[str, Any], latest: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        now = (about["status"], about.get("step"), about.get("done"))
        if not points and now == self.last:
            return []
        self.last = now
        return [{"event": "training_update", "data": {**about, **(latest or {}), "points": points}}]


def system_update() -> dict[str, Any]:
    """The reading of the machine, with the names that LoRA Craft's clients know."""
    told = services().system.read()
    used = told["gpu_memory_used"]
    names = {"cpu": told["cpu_percent"], "memory": told["memory_used"] / told["memory_total"] * 100}
    return {**told, **names, "gpu_memory": used, "gpu_utilization": told["gpu_utilization"]}


@router.websocket("/api/v1/stream")
async def stream(socket: WebSocket) -> None:
    """Tell what changes until the client goes."""
    await socket.accept()
    followers = [Follower(r[:64]) for r in dict.fromkeys(socket.query_params.getlist("run"))][:MOST_RUNS]
    gone = asyncio.create_task(_until_gone(socket))
    waited = SYSTEM_EVERY
    try:
        while not gone.done():
            messages: list[dict[str, Any]] = []
            if waited >= SYSTEM_EVERY:
                waited = 0.0
                messages.append({"event": "system_update", "data": await asyncio.to_thread(system_update)})
            for follower in followers:
                if not follower.ended:
                    messages += await asyncio.to_thread(follower.look)
            for message in messages:
                await socket.send_json(finite(message))
            await asyncio.wait([gone], timeout=EVERY)
            waited += EVERY
    except (WebSocketDisconnect, RuntimeError):  # it went while something was sent
        pass
    finally:
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await gone


async def _until_gone(socket: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, KeyError):
        while True:
            await socket.receive_text()
