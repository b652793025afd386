"""The settings of an export: one field each, from which the keyword, the flag and the reference page are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from bp_merge.common import build, knob, like

from bp_export.errors import BpError
from bp_export.hub.settings import PullSettings
from bp_export.ollama.settings import RegisterSettings, ServerSettings

FORMATS = ("lora", "merged", "gguf", "gguf-lora", "ollama-adapter")
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m", "q2_k")
DTYPES = ("bf16", "f16", "f32")


@dataclass(frozen=True)
class ExportSettings:
    """How an adapter is exported."""

    format: str = knob(
        "lora",
        "What to make: the adapter as it is, merged safetensors, a GGUF model, or the adapter as GGUF (gguf-lora);"
        " ollama-adapter registers the adapter, unmerged, on an Ollama base.",
        flags=("-f",),
        choices=FORMATS,
    )
    quantization: str = knob(
        "q4_k_m", "Number type of a GGUF model.", flags=("-q",), choices=QUANTIZATIONS, keywords=("quant",)
    )
    dtype: str | None = knob(None, "Number type of merged weights; the base's unless given.", choices=DTYPES)
    output: Path | None = knob(
        None,
        "Directory (or .gguf file) to write; RUN/exports/FORMAT for a run's adapter, else ADAPTER/FORMAT, unless given.",
        flags=("-o",),
    )
    base_model: str | None = knob(
        None,
        "Base model: a folder or Hub id; for ollama-adapter the name of an Ollama model or a base GGUF file. What the"
        " adapter recorded unless given.",
    )
    adapter_tag: str | None = knob(
        None,
        "Tag of the adapter on the base's shelf (BASE:TAG) for ollama-adapter; the adapter's name unless given.",
    )
    hub_token_file: Path | None = like(
        PullSettings, "token_file", help="File with a Hub token, for fetching a private or gated base."
    )
    verify: bool = knob(
        False, "Run the file in llama.cpp and compare token ids and predictions with a reference.", flags=()
    )
    ollama: bool = knob(False, "Register the GGUF model with Ollama afterwards.")
    ollama_name: str | None = knob(None, "Name of the Ollama model; made from the file's name unless given.")
    ollama_host: str | None = like(
        ServerSettings, "host", help="Address of the Ollama server; OLLAMA_HOST unless given."
    )
    modelfile: Path | None = like(RegisterSettings, "modelfile")
    system: str | None = like(RegisterSettings, "system", help="System prompt stored with the Ollama model.")
    smoke: bool = like(
        RegisterSettings, "smoke", help="Ask the Ollama model for one short answer after creating it."
    )
    lm_studio: bool = knob(False, "Put the GGUF model where LM Studio finds it.")
    overwrite: bool = knob(True, "Replace an output or an Ollama model of that name; off refuses.")
    reserve_disk_gb: Annotated[float, Ge(0), Le(1e9)] = knob(0.0, "Disk room that must stay free.", unit="GB")
    threads: Annotated[int, Ge(1), Le(1024)] | None = knob(
        None, "Threads for quantizing; all cores unless given."
    )
    dry_run: bool = knob(False, "Only tell what would be done: sizes, memory, disk, time.", flags=("-n",))


def settings_from(given: Mapping[str, Any]) -> ExportSettings:
    """Settings from keywords or flags, read by `build`, and consistent with each other.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED`.
    """
    settings = build(ExportSettings, given, command="backprop export")
    _consistent(settings)
    return settings


def _consistent(s: ExportSettings) -> None:
    """Refuse settings that would do nothing or contradict each other."""

    def refuse(message: str, hint: str) -> None:
        raise BpError("INPUT_VALIDATION_FAILED", message, hint)

    registers = s.ollama or s.format == "ollama-adapter"
    if s.ollama and s.format in ("lora", "merged", "gguf-lora"):
        refuse(
            f"--ollama needs a GGUF model; --format {s.format} makes none",
            "use --format gguf --ollama, or --format ollama-adapter for the adapter unmerged",
        )
    if s.format == "ollama-adapter" and not s.base_model:
        refuse(
            "ollama-adapter needs the base that the adapter is put on",
            "use --base-model llama3.2  (an Ollama model, or the path of a base GGUF file)",
        )
    if s.adapter_tag and s.format != "ollama-adapter":
        refuse("--adapter-tag belongs to --format ollama-adapter", "add --format ollama-adapter")
    if s.dtype and s.format != "merged":
        refuse("--dtype belongs to --format merged", "use --quantization for GGUF")
    if s.lm_studio and s.format != "gguf":
        refuse("--lm-studio needs a GGUF model", "add --format gguf")
    for name in ("ollama_name", "ollama_host", "modelfile", "system"):
        if getattr(s, name) and not registers:
            refuse(f"--{name.replace('_', '-')} belongs to --ollama", "add --format gguf --ollama")
    if s.adapter_tag and s.ollama_name:
        refuse("--adapter-tag and --ollama-name both name the model", "give one of them")
