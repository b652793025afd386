"""Loading the base model and its tokenizer.

- One resolver (`bp_export.resolve_base`): a folder, a Hub id, or a name such as `tiny`.
- Weights are loaded from safetensors only, no code of a repository is run unless `trust_remote_code` says so.
- Every failure is `DEP_MODEL_LOAD_FAILED` with its cause; what cannot work is refused before anything is downloaded.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from bp_merge.common import BpError
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig
from transformers.utils.logging import disable_progress_bar

from bp_core.models import peft_quietly  # noqa: F401  # before transformers imports bitsandbytes
from bp_core.models.device import Device
from bp_core.models.language import auto_class
from bp_core.models.offload import offload
from bp_core.models.stored_quantization import stored_quantization
from bp_core.settings.knobs import Settings

disable_progress_bar()  # transformers' own bars would stand among what the user is told


def load_tokenizer(folder: Path, settings: Settings) -> Any:
    """The tokenizer of a model or adapter folder.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED` where there is none, or only a slow one without offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=settings.model.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _failed(folder, f"no tokenizer can be loaded from {folder}", error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # filler only: masks are positional, so no label is lost
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(folder: Path, settings: Settings, device: Device) -> Any:
    """The base model on its device, in evaluation mode, without gradients.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED` with the cause.
    """
    quantized = _quantized(folder, settings, device)
    attention = None if settings.model.attn_implementation == "auto" else settings.model.attn_implementation
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.model.trust_remote_code)
        model = auto_class(config).from_pretrained(
            folder,
            dtype=device.weights,
            attn_implementation=attention,
            trust_remote_code=settings.model.trust_remote_code,
            use_safetensors=True,
            **quantized,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _failed(folder, f"the model in {folder} cannot be loaded", error) from None
    model.config.use_cache = False
    model.requires_grad_(False)
    if settings.model.full_ft_offload:
        offload(model, device.device)
        return model
    if quantized:
        return model  # where it was loaded: bitsandbytes' weights do not move
    return model.to(device.device)  # type: ignore[arg-type]  # the stubs take it for an unbound method


def _quantized(folder: Path, settings: Settings, device: Device) -> dict[str, Any]:
    """How transformers loads the frozen weights in the wanted format; empty for plain numbers."""
    kind = settings.model.wanted_quantization
    where = {"device_map": {"": device.device}}
    if stored_quantization(folder) is not None:
        return where
    if kind in ("auto", "none"):
        return {}
    if kind == "int8":
        return {**where, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=device.autocast or device.weights,
    )
    return {**where, "quantization_config": four}


def _failed(folder: Path, what: str, error: Exception) -> BpError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BpError(
        "DEP_MODEL_LOAD_FAILED",
        f"{what}: {cause}",
        f"see what is there of the model: backprop info {shlex.quote(str(folder))}",
        details={"cause": type(error).__name__},
    )


def recommended(folder: Path) -> dict[str, Any]:
    """Settings that a model recommends in its `build.json`, where it has one (`tiny` does)."""
    try:
        return dict(json.loads((folder / "build.json").read_text(encoding="utf-8")).get("recommended", {}))
    except (OSError, ValueError):
        return {}


def vocabulary_size(folder: Path) -> int:
    """Rows of a model's output head, from its configuration."""
    return int(AutoConfig.from_pretrained(folder).get_text_config().vocab_size)


def parameter_count(folder: Path) -> int:
    """Parameters of a model, from its configuration alone (nothing is loaded)."""
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return sum(p.numel() for p in auto_class(config).from_config(config).parameters())
