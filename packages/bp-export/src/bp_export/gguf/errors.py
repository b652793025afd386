"""The two errors of GGUF files that are raised from many places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bp_export.errors import BpError


def unsupported(
    message: str, hint: str = "export merged weights instead: backprop export ADAPTER --format merged"
) -> BpError:
    """A model that llama.cpp would run differently from transformers."""
    return BpError("INPUT_MODEL_UNSUPPORTED", message, hint)


def invalid_file(path: Path, why: str) -> BpError:
    """A file that cannot be read as GGUF."""
    return BpError(
        "INPUT_GGUF_INVALID",
        f"{path} is not a whole GGUF file: {why}",
        "export it again: backprop export ADAPTER --format gguf",
    )


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names of a list and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
