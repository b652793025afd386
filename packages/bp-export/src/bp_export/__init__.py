"""From a LoRA adapter to merged weights, GGUF, Ollama and the Hub, streaming and verified.

The main function is `bp_export.export.export`; it stays in its module, whose name it shares.
"""

from __future__ import annotations

from typing import Any

_HOMES = {
    "AdapterInfo": "adapter_dir",
    "ExportResult": "export",
    "ResolvedBase": "base",
    "resolve_base": "base",
}

__all__ = ["AdapterInfo", "ExportResult", "ResolvedBase", "resolve_base"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
