"""The settings of the Ollama commands: one field each, from which keyword, flag and reference page are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bp_merge.common import knob


@dataclass(frozen=True)
class ServerSettings:
    """Which Ollama server; of every `backprop ollama` command and of `bp_export.Ollama`."""

    host: str | None = knob(None, "Address of the server; OLLAMA_HOST unless given.")


@dataclass(frozen=True)
class RegisterSettings:
    """How a GGUF file becomes an Ollama model."""

    name: str | None = knob(None, "Name of the model; made from the file's unless given.")
    modelfile: Path | None = knob(None, "Your own Modelfile: its values win over the derived ones.")
    base_model: str | None = knob(
        None, "For a GGUF adapter: an Ollama model, or a base GGUF file.", keywords=("base",)
    )
    system: str | None = knob(None, "System prompt stored with the model.")
    no_overwrite: bool = knob(False, "Refuse where a model of that name exists.")
    smoke: bool = knob(True, "Ask for one short answer afterwards.")
