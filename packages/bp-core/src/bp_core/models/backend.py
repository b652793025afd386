"""What this version cannot compute with, known from the settings alone. No torch."""

from __future__ import annotations

import importlib.util
from typing import Any

from bp_merge.common import BpError

from bp_core.settings.decided import value_of
from bp_core.settings.knobs import Settings
from bp_core.support.launch import launch

# Knobs that MLX takes one or a few values of. The first stands where the user left the knob open.
MLX_TAKES: dict[str, tuple[Any, ...]] = {
    "method": ("sft",),
    "mode": ("lora",),
    "use_dora": (False,),
    "init_lora_weights": ("default",),
    "quantization": ("none", "auto"),
    "load_in_4bit": (False,),
    "load_in_8bit": (False,),
    "trust_remote_code": (False,),
    "attn_implementation": ("sdpa", "auto"),
    "packing": (False, None),
    "optim": ("adamw_torch", "auto"),
    "fast_lora": (False, None),
    "fused_layers": (False, None),
    "compile": (False,),
    "loss_chunk": (0,),
    "recompute": ("layers", "auto"),
    "dataloader_workers": (0,),
    "oom_recovery": (False,),
    "eval_metrics": ((),),
    "log_prompts": ((),),
}


def refuse_backend(settings: Settings) -> None:
    """Refuse a backend or number type that was asked for and cannot be had.

    Raises:
        BpError: `DEP_MLX_UNAVAILABLE` for `mlx` where it is not installed, `CONFIG_CONFLICT` for what it does not do;
            `DEP_FP8_UNAVAILABLE` for `--fp8`, `CONFIG_INVALID_SETTING` for what the CPU does not do.
    """
    model = settings.model
    if settings.training.fp8:
        raise BpError(
            "DEP_FP8_UNAVAILABLE",
            "this version does not train on 8-bit float weights",
            "leave --fp8 out: weights are bf16 then",
        )
    if model.backend == "mlx":
        _refuse_by_mlx(settings)
    if model.backend == "cpu":
        refuse_on_cpu(settings)


def _refuse_by_mlx(settings: Settings) -> None:
    for name, taken in MLX_TAKES.items():
        value = value_of(settings, name)
        if settings.given(name) and value not in taken:
            shown = value if isinstance(value, str) else ""
            raise BpError(
                "CONFIG_CONFLICT",
                f"MLX does not take --{name.replace('_', '-')} {shown}".rstrip()
                + ": it trains LoRA adapters by supervision",
                f"leave --{name.replace('_', '-')} out, or leave --backend mlx out",
            )
    if launch().world > 1:
        raise BpError(
            "CONFIG_CONFLICT",
            f"MLX trains in one process, not in {launch().world}",
            "start it without a launcher: backprop train --backend mlx",
        )
    missing = [p for p, m in (("mlx", "mlx"), ("mlx-lm", "mlx_lm")) if importlib.util.find_spec(m) is None]
    if missing:
        raise BpError(
            "DEP_MLX_UNAVAILABLE",
            f"training with MLX needs {' and '.join(missing)}, which cannot be found",
            "pip install 'bp-core[mlx]', or leave --backend mlx out",
        )


def settled_for(settings: Settings) -> Settings:
    """Settings that say what the backend does where the user left a knob open."""
    if settings.model.backend != "mlx":
        return settings
    open_ones = {name: taken[0] for name, taken in MLX_TAKES.items() if value_of(settings, name) != taken[0]}
    return settings.replace("default (MLX)", **open_ones) if open_ones else settings


def refuse_on_cpu(settings: Settings) -> None:
    """Refuse float16, in which the CPU does not train, and optimizers that have no other than a card's memory.

    Raises:
        BpError: `CONFIG_INVALID_SETTING`.
    """
    optim = settings.training.optim
    if optim.startswith("paged_ademamix"):
        raise BpError(
            "CONFIG_INVALID_SETTING",
            f"{optim} keeps its state in memory that a CUDA card pages, and there is no card",
            f"use --optim {optim.removeprefix('paged_').removesuffix('_32bit')}",
        )
    if settings.model.dtype == "float16":
        raise BpError("CONFIG_INVALID_SETTING", "float16 trains on a CUDA card alone", "use --dtype float32")
