"""Figures as people read them; everything that a page shows is text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

NONE = "–"


def size(count: float | None) -> str:
    """Bytes with a unit.

    >>> size(None), size(512), size(8_100_000), size(24e9)
    ('–', '512 B', '8.1 MB', '24 GB')
    """
    if count is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.3g} {unit}"


def number(value: Any, digits: int = 4) -> str:
    """A number with at most so many digits.

    >>> number(0.404583), number(None), number(12500)
    ('0.4046', '–', '12,500')
    """
    if not isinstance(value, int | float) or value != value:
        return NONE
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """A time.

    >>> duration(42), duration(187), duration(7500), duration(None)
    ('42 s', '3 min 07 s', '2 h 05 min', '–')
    """
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ago(at: Any) -> str:
    """How long ago, from seconds since the epoch."""
    if not isinstance(at, int | float):
        return NONE
    passed = max(0.0, time.time() - at)
    if passed < 60:
        return "just now"
    for span, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if passed >= span:
            count = int(passed // span)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def share(part: float | None) -> str:
    """A share as `40%`, 0% where it is not known."""
    return f"{100 * (part or 0):.0f}%"


def brief(run: dict[str, Any]) -> dict[str, str]:
    """One line of a run as text."""
    total = run.get("total")
    done = run.get("done") or 0
    unit = run.get("unit") or ""
    if unit == "bytes":
        told = size(done) + (f" of {size(total)}" if total else "")
    else:
        told = f"{done:,.0f} of {total:,.0f} {unit}" if total else ""
    return {
        "run_id": run["run_id"],
        "name": run.get("name") or "",
        "kind": run.get("kind") or "",
        "status": run["status"],
        "model": "/".join(Path(model).parts[-2:])
        if Path(model := run.get("model") or NONE).is_absolute()
        else model,
        "method": run.get("method") or "",
        "made": ago(run.get("created_at")),
        "took": duration(run.get("seconds")),
        "done": told or NONE,
        "share": share(run.get("share") if run["status"] != "completed" else 1),
        "loss": number(run.get("loss")),
        "heldout": number(run.get("heldout_loss")),
        "error": run.get("error") or "",
        "href": f"/run/?id={run['run_id']}",
        "picked": "",
    }
