"""The optimisation."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from bp_merge.common import knob

from bp_core.settings.optimizers import REFUSED, TAKEN
from bp_core.settings.tables import MANY


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """The optimisation."""

    steps: Annotated[int, Gt(0), Le(MANY)] | None = knob(
        None,
        "Optimizer steps. Default: 100, unless --epochs is given.",
        group="Training",
        keywords=("max_steps",),
    )
    epochs: Annotated[float, Gt(0), Le(10_000)] | None = knob(
        None, "Passes over the data, instead of --steps.", group="Training", keywords=("num_train_epochs",)
    )
    batch_size: Annotated[int, Gt(0), Le(65_536)] | None = knob(
        None,
        "Examples per forward pass. Default: as many of the step as fit, halved when memory runs out.",
        group="Training",
        unit="examples",
        flags=("--per-device-train-batch-size",),
        keywords=("per_device_train_batch_size",),
    )
    gradient_accumulation: Annotated[int, Gt(0), Le(65_536)] | None = knob(
        None,
        "Forward passes per optimizer step. Default: as many as make a step of 16 examples.",
        group="Training",
        flags=("--gradient-accumulation-steps",),
        keywords=("gradient_accumulation_steps",),
    )
    learning_rate: Annotated[float, Gt(0), Le(100)] | None = knob(
        None,
        "Peak learning rate. Default: by method, 2e-4 for sft.",
        group="Training",
        flags=("--lr",),
        env=("BACKPROPAGATE_TRAINING__LR",),
        keywords=("lr",),
    )
    scheduler: str = knob(
        "cosine",
        "Learning-rate schedule after warm-up.",
        group="Training",
        choices=("constant", "linear", "cosine", "cosine_with_min_lr", "inverse_sqrt"),
        flags=("--lr-scheduler-type",),
        keywords=("lr_scheduler_type",),
    )
    warmup_steps: Annotated[int, Ge(0), Le(MANY)] | None = knob(
        None, "Steps of linear warm-up. Default: --warmup-ratio of all steps.", group="Training", unit="steps"
    )
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = knob(
        0.03, "Share of the steps that warm up.", group="Training"
    )
    weight_decay: Annotated[float, Ge(0), Le(100)] = knob(0.0, "AdamW weight decay.", group="Training")
    max_grad_norm: Annotated[float, Ge(0), Le(1e9)] = knob(
        1.0, "Clip gradients to this norm; 0 never clips.", group="Training"
    )
    optim: str = knob(
        "auto",
        "Optimizer, by transformers' name; auto is paged 8-bit AdamW with --mode full on a card and on cards under 24 GB, "
        "where bitsandbytes is installed, else fused AdamW.",
        group="Training",
        choices=("auto", *TAKEN),
        refused=REFUSED,
    )
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(
        42, "Seed of split, order, initialisation and dropout.", group="Training"
    )
    gradient_checkpointing: bool | None = knob(
        None,
        "Recompute activations to save memory. Default: where less than four examples a pass fit without.",
        group="Training",
    )
    recompute: str = knob(
        "auto",
        "What gradient checkpointing computes again: whole decoder layers, or their attention alone; "
        "auto is layers.",
        group="Training",
        choices=("auto", "layers", "attention"),
    )
    fast_lora: bool | None = knob(
        None,
        "Compute a LoRA layer as one function that keeps its input alone. Default: where it gives PEFT's loss and gradients.",
        group="Training",
    )
    fused_layers: bool | None = knob(
        None,
        "Norms, rotary positions and gated layers by liger-kernel. "
        "Default: with a card, where it is installed and gives the model's loss and gradients.",
        group="Training",
    )
    compile: bool = knob(
        False,
        "Compile the decoder layers (torch.compile): a minute or two at the start, faster steps after it.",
        group="Training",
    )
    length_buckets: bool | None = knob(
        None,
        "Fill rows up to a few lengths, four to each power of two, so that kernels and memory are planned once. "
        "Default: with a card, and with --compile.",
        group="Training",
    )
    loss_chunk: Annotated[int, Ge(0), Le(MANY)] | None = knob(
        None,
        "Positions whose logits exist at a time; 0 forms all logits at once. "
        "Default: 1024, fewer where the vocabulary is so large that they would pass 256 MB.",
        group="Training",
        unit="positions",
    )
    batching: str = knob(
        "grouped",
        "grouped: examples of similar length share a step; random: no grouping.",
        group="Training",
        choices=("grouped", "random"),
    )
    eval_steps: Annotated[int, Ge(0), Le(MANY)] | None = knob(
        None,
        "Evaluate the held-out loss every so many steps; 0 never. Default: a fifth of the run.",
        group="Training",
    )
    eval_samples: Annotated[int, Ge(0), Le(MANY)] = knob(
        128, "Held-out examples that an evaluation measures, always the same; 0 takes all.", group="Training"
    )
    eval_metrics: tuple[str, ...] = knob(
        (),
        "Metric of answers to held-out rows, measured at every evaluation; repeat it.",
        group="Training",
        flags=("--eval-metric",),
        whole=True,
    )
    eval_answers: Annotated[int, Ge(0), Le(MANY)] = knob(
        32, "Held-out rows answered for --eval-metric, always the same; 0 takes all.", group="Training"
    )
    save_steps: Annotated[int, Ge(0), Le(MANY)] | None = knob(
        None,
        "Save a checkpoint every so many steps; 0 only at the end. Default: a fifth of the run.",
        group="Training",
    )
    patience: Annotated[int, Ge(0), Le(MANY)] = knob(
        0, "Stop after so many evaluations without a better value of --best-by; 0 never.", group="Training"
    )
    best_by: str = knob(
        "loss",
        "What --patience and --keep best go by: the held-out loss, or an --eval-metric.",
        group="Training",
    )
    keep: str = knob("last", "Which weights become the adapter.", group="Training", choices=("last", "best"))
    keep_last: Annotated[int, Ge(1), Le(MANY)] = knob(2, "Newest checkpoints kept.", group="Training")
    keep_best: Annotated[int, Ge(0), Le(MANY)] = knob(1, "Best checkpoints kept.", group="Training")
    max_checkpoint_gb: Annotated[float, Gt(0), Le(1e9)] | None = knob(
        None,
        "Most disk that checkpoints may hold; the oldest go first, the newest stays.",
        group="Training",
        unit="GB",
    )
    log_prompts: tuple[str, ...] = knob(
        (),
        "Prompt answered at every evaluation and logged; repeat it.",
        group="Training",
        flags=("--log-prompt",),
        whole=True,
    )
    dataloader_workers: Annotated[int, Ge(0), Le(256)] = knob(
        0, "Processes that build batches.", group="Training"
    )
    fp8: bool = knob(False, "8-bit float base weights (Hopper and Blackwell cards).", group="Training")
