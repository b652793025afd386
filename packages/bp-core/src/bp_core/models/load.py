"""Loading the base model and its tokenizer, and putting the adapter on it.

- One resolver (`bp_export.resolve_base`): a folder, a Hub id, or a name such as `tiny`.
- Weights are loaded from safetensors only, no code of a repository is run unless `trust_remote_code` says so.
- Every failure is `DEP_MODEL_LOAD_FAILED` with its cause; what cannot work is refused before anything is downloaded.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from bp_merge.common import BpError
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from bp_core.settings.knobs import PRESETS, Settings

disable_progress_bar()  # transformers' own bars would stand among what the user is told


@dataclasses.dataclass(frozen=True)
class Device:
    """Where and how numbers are computed.

    Args:
        device: torch device.
        weights: dtype of the frozen weights.
        autocast: dtype of matrix products, None for the weights' own.
        name: as people call it.
    """

    device: torch.device
    weights: torch.dtype
    autocast: torch.dtype | None
    name: str

    @property
    def fp16(self) -> bool:
        """Whether the loss must be scaled."""
        return self.autocast is torch.float16


def choose_device(settings: Settings) -> Device:
    """The device that a run uses, by settings and what is there.

    Raises:
        BpError: `DEP_GPU_NOT_AVAILABLE` for `--backend cuda` without a card; `DEP_MLX_UNAVAILABLE` for `mlx`,
            `DEP_FP8_UNAVAILABLE` for `--fp8`: asked for and not possible here.
    """
    model = settings.model
    if model.backend == "mlx":
        raise BpError(
            "DEP_MLX_UNAVAILABLE",
            "this version trains with CUDA or on the CPU, not with MLX",
            "leave --backend mlx out",
        )
    if settings.training.fp8:
        raise BpError(
            "DEP_FP8_UNAVAILABLE",
            "this version does not train on 8-bit float weights",
            "leave --fp8 out: weights are bf16 then",
        )
    cuda = torch.cuda.is_available()
    if model.backend == "cuda" and not cuda:
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            "no CUDA card can be used",
            "leave --backend cuda out to train on the CPU, or install a CUDA build of torch",
        )
    if model.backend == "cpu" or not cuda:
        dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
        if dtype is torch.float16:
            raise BpError("CONFIG_INVALID_SETTING", "float16 does not train on the CPU", "--dtype float32")
        return Device(torch.device("cpu"), dtype, None if dtype is torch.float32 else dtype, "CPU")
    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype = half if model.dtype == "auto" else getattr(torch, model.dtype)
    return Device(
        torch.device("cuda", 0),
        dtype,
        None if dtype is torch.float32 else dtype,
        torch.cuda.get_device_name(0),
    )


def load_tokenizer(folder: Path, settings: Settings) -> Any:
    """The tokenizer of a model or adapter folder.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED` where there is none, or only a slow one without offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=settings.model.trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _failed(f"no tokenizer can be loaded from {folder}", error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # filler only: masks are positional, so no label is lost
    tokenizer.padding_side = "right"
    return tokenizer


def load_model(folder: Path, settings: Settings, device: Device) -> Any:
    """The base model on its device, in evaluation mode, without gradients.

    Raises:
        BpError: `DEP_MODEL_LOAD_FAILED` with the cause.
    """
    attention = None if settings.model.attn_implementation == "auto" else settings.model.attn_implementation
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=device.weights,
            attn_implementation=attention,
            trust_remote_code=settings.model.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise _failed(f"the model in {folder} cannot be loaded", error) from None
    model.config.use_cache = False
    model.requires_grad_(False)
    return model.to(device.device)  # type: ignore[arg-type]  # the stubs take it for an unbound method


def _failed(what: str, error: Exception) -> BpError:
    cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return BpError(
        "DEP_MODEL_LOAD_FAILED",
        f"{what}: {cause}",
        "backprop info MODEL  (tells what is missing)",
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
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


def beside_experts(model: nn.Module) -> list[str]:
    """What `all-linear` adapts in a mixture of experts: attention and shared layers; empty for any other model.

    PEFT would adapt experts and router with it, which no exporter here can write.
    """
    if not any(p.ndim == 3 and ".experts." in n for n, p in model.named_parameters()):
        return []
    head = model.get_output_embeddings()  # type: ignore[operator]
    found = set()
    for name, module in model.named_modules():
        parts = name.split(".")
        if (
            isinstance(module, nn.Linear)
            and module is not head
            and not {"experts", "gate", "router"} & set(parts)
        ):
            found.add(
                ".".join(parts[-2:])
            )  # "shared_expert.up_proj", not "up_proj": PEFT turns that into experts
    return sorted(found)


def add_adapter(model: nn.Module, settings: Settings) -> Any:
    """Put a fresh LoRA adapter on a model; its weights are fp32 whatever the base is.

    Raises:
        BpError: `CONFIG_TARGET_MODULES` where no module of the model has such a name.
    """
    lora = settings.lora
    targets: Any = list(lora.target_modules)
    if targets == ["all-linear"]:
        targets = beside_experts(model) or "all-linear"
    start: Any = True if lora.init_lora_weights == "default" else lora.init_lora_weights
    config = LoraConfig(
        r=lora.rank or PRESETS[lora.preset]["rank"],
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        init_lora_weights=start,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(settings.training.seed)
    try:
        return get_peft_model(model, config)  # type: ignore[arg-type]
    except ValueError as error:
        linear = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise BpError(
            "CONFIG_TARGET_MODULES",
            f"no module is called {', '.join(lora.target_modules)} ({str(error).splitlines()[0][:120]})",
            f"--target-modules all-linear, or some of: {', '.join(linear)}",
        ) from None
