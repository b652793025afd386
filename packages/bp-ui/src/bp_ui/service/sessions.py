"""Sessions of many runs: their start, and what they decided, as a page shows it while they go on and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.errors import BpError
from bp_ui.service.forms import fields_of, train_flags
from bp_ui.service.services import Services

FIGURES = ("exact_match", "loss")


def session_form() -> list[dict[str, Any]]:
    """Every setting of a session that is none of its runs."""
    from bp_core.settings.groups.session import SessionSettings

    return fields_of(SessionSettings, "session")


def start_session(services: Services, values: Mapping[str, Any], *, run_id: str | None = None) -> str:
    """Start a session; returns its id.

    Args:
        services: of the server.
        values: settings of the session and of its runs by field name; `data` is a list, a task each.
        run_id: chosen by the client.

    Raises:
        BpError: those of `train_flags`; `INPUT_UI_REQUEST` without data.
    """
    if not values.get("data"):
        raise BpError(
            "INPUT_UI_REQUEST", "a session needs a dataset: one for each task", "backprop multi-run --help"
        )
    flags = train_flags(values, services.places, session=True)
    return services.jobs.multi_run(flags, run_id=run_id)


def session(services: Services, run_id: str) -> dict[str, Any]:
    """What a session has decided so far.

    Returns:
        `tasks`; `rounds`, one for each run that is over; `figures`, for exact match and loss a matrix of the result's
        figure on each task (columns) before any run and after each (rows), None where nothing was held out;
        `summary`, average and transfers where it ended; `compared`, other merges of the same adapters.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_UI_REQUEST` for another job, `STATE_SESSION_INVALID`.
    """
    from bp_core.continual.ledger import Ledger
    from bp_core.runs.rows import LIVE

    store = services.runs.store
    record = store.get(run_id)
    if record.kind != "multi-run":
        raise BpError(
            "INPUT_UI_REQUEST",
            f"{record.run_id} is a {record.kind}, no session",
            f"backprop show-run {record.run_id}",
        )
    members = {m.run_id: m for m in store.list() if m.parent == record.run_id}
    rounds = []
    for r in Ledger.load(record.path).rounds[1:]:
        member = members.get(r.run_id)
        rounds.append(
            {
                "number": r.number,
                "run_id": r.run_id,
                "task": (member.name.partition(": ")[2] if member else "") or f"task {r.task + 1}",
                "accepted": r.accepted,
                "reason": r.reason,
                "message": r.message,
                "facts": r.facts,
                "seconds": sum(r.seconds.values()),
                "loss": member.result.get("train_loss") if member else None,
            }
        )
    names = [n for n in store.metric_names(record.run_id) if n.startswith("loss:")]
    learnt = [r["task"] for r in rounds]
    tasks = [n.partition(":")[2] for n in names]
    tasks.sort(key=lambda t: learnt.index(t) if t in learnt else len(learnt))
    result = record.result
    return {
        "run_id": record.run_id,
        "status": record.status,
        "name": record.name,
        "runs": record.config.get("session", {}).get("runs"),
        "tasks": tasks,
        "rounds": rounds,
        "figures": {f: _matrix(store, record.run_id, f, tasks) for f in FIGURES} if tasks else None,
        "summary": {f: result["forgetting"][f] for f in FIGURES} if result.get("forgetting") else None,
        "compared": result.get("compared") or {},
        "strategy": result.get("strategy") or "",
        "best_strategy": result.get("best_strategy") or "",
        "live_member": next((m.run_id for m in members.values() if m.status in LIVE), ""),
    }


def _matrix(store: Any, run_id: str, figure: str, tasks: list[str]) -> list[list[float | None]]:
    """Row i: each task's figure after run i, 0 before any."""
    columns = [dict(store.metrics(run_id, f"{figure}:{t}")) for t in tasks]
    rows = max((max(c, default=-1) for c in columns), default=-1) + 1
    return [[c.get(i) for c in columns] for i in range(rows)]
