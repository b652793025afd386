"""What this version cannot compute with, known from the settings alone. No torch."""

from __future__ import annotations

from bp_merge.common import BpError

from bp_core.settings.knobs import Settings


def refuse_backend(settings: Settings) -> None:
    """Refuse a backend or number type that was asked for and cannot be had.

    Raises:
        BpError: `DEP_MLX_UNAVAILABLE` for `mlx`, `DEP_FP8_UNAVAILABLE` for `--fp8`, `CONFIG_INVALID_SETTING` for
            what the CPU does not do.
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
    if model.backend == "cpu":
        refuse_on_cpu(settings)


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
