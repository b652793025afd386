"""GGUF files: planned, written, read."""

from __future__ import annotations

from typing import Any

# imported on first use: the codes in `errors` are read without numpy
_HOMES = {
    "QUANTIZATIONS": "recipe",
    "GgufFile": "read",
    "GgufResult": "write",
    "Plan": "plan",
    "plan_gguf": "plan",
    "write_gguf": "write",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
