"""What `estimate-vram` is asked: train's own knobs where they mean the same, and the card."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob, like

from bp_core.settings.groups.lora import LoraSettings
from bp_core.settings.groups.method import MethodSettings
from bp_core.settings.groups.model import ModelSettings
from bp_core.settings.groups.rl import RlSettings
from bp_core.settings.groups.training import TrainingSettings
from bp_core.settings.tables import MANY

FORMATS = ("auto", "none", "nf4", "int8")


@dataclasses.dataclass(frozen=True)
class EstimateSettings:
    """What is to be estimated; what is left out is chosen so that it fits."""

    vram_gb: Annotated[float, Gt(0), Le(512)] | None = knob(
        None,
        "Memory of the card, in GB of 2^30 bytes. Default: that of the first card here, else main memory.",
        group="Card",
        unit="GB",
    )
    mode: str = knob("lora", "An adapter, or every weight.", group="Run", choices=("lora", "full"))
    full_ft_offload: bool = like(ModelSettings, "full_ft_offload", group="Run")
    method: str = like(
        MethodSettings,
        "method",
        help="Training method; grpo, gspo and rloo draw groups of answers and learn from them.",
        group="Run",
        env=(),
    )
    max_seq_length: Annotated[int, Gt(0), Le(2**24)] = like(
        ModelSettings, "max_seq_length", help="Tokens of the longest example.", group="Run"
    )
    batch_size: Annotated[int, Gt(0), Le(65_536)] | None = like(
        TrainingSettings,
        "batch_size",
        help="Examples per forward pass. Default: as many as fit.",
        group="Run",
    )
    gradient_accumulation: Annotated[int, Gt(0), Le(65_536)] | None = like(
        TrainingSettings, "gradient_accumulation", group="Run"
    )
    preset: str = like(LoraSettings, "preset", group="Run", env=())
    rank: Annotated[int, Gt(0), Le(8192)] | None = like(LoraSettings, "rank", group="Run", env=())
    target_modules: tuple[str, ...] = like(LoraSettings, "target_modules", group="Run")
    use_dora: bool = like(LoraSettings, "use_dora", group="Run")
    quantization: str = knob(
        "auto",
        "Format of the frozen weights; auto keeps 16 bits where they fit, else nf4.",
        group="Run",
        choices=FORMATS,
    )
    dtype: str = like(ModelSettings, "dtype", help="Format of weights that are not quantised.", group="Run")
    optim: str = like(TrainingSettings, "optim", help="Optimizer.", group="Run")
    gradient_checkpointing: bool | None = like(
        TrainingSettings,
        "gradient_checkpointing",
        help="Recompute activations to save memory. Default: where that makes it fit.",
        group="Run",
    )
    loss_chunk: Annotated[int, Ge(0), Le(MANY)] | None = like(
        TrainingSettings, "loss_chunk", help="Positions whose logits exist at a time; 0 all.", group="Run"
    )
    packing: bool = knob(False, "One row of max-seq-length tokens a pass.", group="Run")
    max_completion_length: Annotated[int, Gt(0), Le(2**24)] = like(
        RlSettings, "max_completion_length", group="Run"
    )
    keep_last: Annotated[int, Ge(1), Le(MANY)] = like(TrainingSettings, "keep_last", group="Run")
    keep_best: Annotated[int, Ge(0), Le(MANY)] = like(TrainingSettings, "keep_best", group="Run")
