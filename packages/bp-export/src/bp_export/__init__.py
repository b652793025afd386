"""From a LoRA adapter to merged weights, GGUF, Ollama and the Hub, streaming and verified."""

from __future__ import annotations

from typing import Any

# public name → the module that holds it; imported on first use
_HOMES = {
    "AdapterInfo": "adapter.directory",
    "BpError": "errors",
    "ExportPlan": "formats.estimate",
    "ExportResult": "formats.job",
    "ExportSettings": "formats.settings",
    "GgufResult": "gguf.write",
    "Ollama": "ollama.client",
    "PushResult": "sharing.push",
    "RegisterResult": "ollama.register",
    "ResolvedBase": "adapter.base",
    "VerifyResult": "verify.gguf",
    "export": "formats.job",
    "open_runtime": "verify.runtime",
    "pull": "sharing.pull",
    "push": "sharing.push",
    "register": "ollama.register",
    "resolve_base": "adapter.base",
    "shelf": "ollama.register",
    "write_gguf": "gguf.write",
    "write_gguf_lora": "gguf.lora",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
