"""Which tabs are connected: a task that a click started ends when its tab does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

_apps: list[Any] = []


def watch(app: Any) -> None:
    """Make this the app whose tabs are asked for."""
    _apps[:] = [app]


def open_tabs() -> Collection[str]:
    """The tokens of connected tabs."""
    namespace = _apps[0].event_namespace if _apps else None
    return namespace.token_to_sid.keys() if namespace is not None else ()
