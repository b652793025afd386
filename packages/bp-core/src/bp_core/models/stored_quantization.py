"""What a base model's configuration says of how its weights are stored, and whether that can be trained on. No torch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.settings.knobs import Settings


def stored_quantization(folder: Path) -> str | None:
    """The method by which a model's weights are stored rounded (`bitsandbytes`, `gptq`, …); None for plain numbers."""
    found: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = (found, found.get("text_config")) if isinstance(found, dict) else ()
    for part in parts:
        if isinstance(part, dict) and (about := part.get("quantization_config")):
            return str(about.get("quant_method", "unknown")) if isinstance(about, dict) else "unknown"
    return None


def refuse_missing(package: str = "bitsandbytes", *, what: str = "a quantised base") -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        BpError: `DEP_BITSANDBYTES_MISSING`.
    """
    if importlib.util.find_spec(package) is None:
        raise BpError(
            "DEP_BITSANDBYTES_MISSING",
            f"{what} needs {package}, which is not installed",
            "pip install 'bp-core[qlora]'",
        )


def refuse_stored(settings: Settings, folder: Path) -> None:
    """Refuse a base that is stored in a way that is not trained on, or that the settings contradict.

    Raises:
        BpError: `INPUT_BASE_QUANTIZED`, `CONFIG_CONFLICT`, `DEP_BITSANDBYTES_MISSING`.
    """
    method, model = stored_quantization(folder), settings.model
    if method is None:
        return
    if method != "bitsandbytes":
        raise BpError(
            "INPUT_BASE_QUANTIZED",
            f"the weights of {model.model} are stored in {method}, on which this version does not train",
            "name the model in 16 bits, and add --load-in-4bit to the command where memory is short",
            details={"quant_method": method},
        )
    if model.mode == "full":
        raise BpError(
            "CONFIG_CONFLICT",
            f"the weights of {model.model} are stored rounded, and cannot be trained themselves",
            "add --mode lora to the command, or name the model in 16 bits",
        )
    asked = any(settings.given(name) for name in ("quantization", "load_in_4bit", "load_in_8bit"))
    if asked and model.wanted_quantization != "auto":
        raise BpError(
            "CONFIG_CONFLICT",
            f"the weights of {model.model} are stored quantised already",
            "leave --quantization, --load-in-4bit and --load-in-8bit out",
        )
    if settings.lora.init_lora_weights.startswith(("pissa", "olora")):
        raise BpError(
            "CONFIG_CONFLICT",
            f"{settings.lora.init_lora_weights} changes the base weights, which are stored quantised",
            "leave --init-lora-weights out",
        )
    refuse_missing()
