"""The adapter (LoRA, arXiv:2106.09685)."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from bp_merge.common import knob


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The adapter (LoRA, arXiv:2106.09685)."""

    preset: str = knob(
        "auto",
        "fast: rank 16 on q and v; balanced: rank 32 on all linear layers; quality: rank 256 on all linear layers; "
        "auto: balanced where that fits the memory there is, else fast.",
        group="LoRA",
        choices=("auto", "fast", "balanced", "quality"),
        flags=("--lora-preset",),
        env=("BACKPROPAGATE_LORA__PRESET",),
        keywords=("lora_preset",),
    )
    rank: Annotated[int, Gt(0), Le(8192)] | None = knob(
        None,
        "Rank of the adapter. Default: by preset.",
        group="LoRA",
        flags=("--lora-r", "-r"),
        env=("BACKPROPAGATE_LORA__R",),
        keywords=("lora_r", "r"),
    )
    alpha: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None,
        "Scale of the adapter: ΔW = alpha/rank · B·A. Default: twice the rank (the rank itself above 64).",
        group="LoRA",
        flags=("--lora-alpha",),
        keywords=("lora_alpha",),
    )
    dropout: Annotated[float, Ge(0), Lt(1)] = knob(
        0.0, "Dropout before A.", group="LoRA", flags=("--lora-dropout",), keywords=("lora_dropout",)
    )
    target_modules: tuple[str, ...] = knob(
        (), "Modules that get an adapter; repeat it, or all-linear. Default: by preset.", group="LoRA"
    )
    use_rslora: bool = knob(
        False, "Scale by alpha/sqrt(rank) (arXiv:2312.03732).", group="LoRA", flags=("--rslora",)
    )
    use_dora: bool = knob(
        False, "Learn magnitudes apart from directions (arXiv:2402.09353).", group="LoRA", flags=("--dora",)
    )
    init_lora_weights: str = knob(
        "default",
        "How A and B start. pissa and olora take the base's main directions out of it and are saved at twice the rank, for "
        "the unchanged base; pissa_niter_N finds them in N passes of a faster, approximate SVD; eva reads some of the data "
        "and gives each layer its own rank; loftq is refused.",
        group="LoRA",
        choices=(
            "default",
            "gaussian",
            "orthogonal",
            "pissa",
            "pissa_niter_4",
            "pissa_niter_16",
            "olora",
            "eva",
            "loftq",
        ),
    )
