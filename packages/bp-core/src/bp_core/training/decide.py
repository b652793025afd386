"""What the user left open, decided for this run: by preset, by the model's recommendation, by the device, by the data.

- An explicit value always wins; where it is very likely a mistake, that is said.
- Every decision names who made it, so that the table of settings tells «default (preset balanced)» from «flag».
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from bp_merge.common import knobs

from bp_core.encoding.dataset import Prepared
from bp_core.encoding.steps import StepPlan
from bp_core.models.device import Device
from bp_core.settings.knobs import (
    HIGH_RATES,
    LEARNING_RATES,
    METHODS,
    PRESETS,
    STEP_EXAMPLES,
    MethodSettings,
    Settings,
)
from bp_core.training.objectives.kto import balanced_weights, label_counts

LOGITS = 2**26  # numbers of a chunk of logits: 256 MB in fp32


def decide(
    settings: Settings, recommended: dict[str, Any], device: Device, prepared: Prepared, *, vocabulary: int
) -> Settings:
    """Fill every None.

    Args:
        settings: as resolved.
        recommended: of the model, may be empty.
        device: in use.
        prepared: the data.
        vocabulary: of the model.
    """
    preset = settings.lora.preset
    open_ = {
        name: value
        for name, value in recommended.items()
        if not settings.given(name)
        and not (name == "steps" and settings.training.epochs)
        and not (name == "learning_rate" and settings.method.method != "sft")  # it was found for sft
    }
    settings = settings.replace(f"default ({settings.model.model})", **open_) if open_ else settings
    by_preset = {
        name: value
        for name, value in PRESETS[preset].items()
        if not settings.given(name) and not getattr(settings.lora, name)
    }
    settings = settings.replace(f"default (preset {preset})", **by_preset) if by_preset else settings
    if settings.lora.alpha is None:
        rank = settings.lora.rank or PRESETS[preset]["rank"]
        settings = settings.replace("default (by rank)", alpha=float(2 * rank if rank <= 64 else rank))
    t = settings.training
    if t.learning_rate is None:
        method = settings.method.method
        settings = settings.replace(f"default (method {method})", learning_rate=LEARNING_RATES[method])
    if settings.method.method == "kto":
        settings = _balanced(settings, prepared)
    pieces = len(prepared.train)
    if t.batch_size is None or t.gradient_accumulation is None:
        accumulation = t.gradient_accumulation or (
            1 if t.batch_size is None else max(1, STEP_EXAMPLES // t.batch_size)
        )
        size = t.batch_size or max(1, STEP_EXAMPLES // accumulation)
        settings = settings.replace(
            "default (16 examples a step)", batch_size=min(size, pieces), gradient_accumulation=accumulation
        )
    t = settings.training
    if t.steps is None:
        if t.epochs is None:
            settings = settings.replace("default", steps=100)
        else:
            steps = max(1, math.ceil(t.epochs * plan_of(settings, prepared).steps_per_epoch))
            settings = settings.replace(f"default ({t.epochs:g} epochs)", steps=steps)
    t = settings.training
    cuda = device.device.type == "cuda"
    more: dict[str, Any] = {}
    if t.warmup_steps is None:
        more["warmup_steps"] = round(t.warmup_ratio * (t.steps or 0))
    if t.gradient_checkpointing is None:
        more["gradient_checkpointing"] = cuda
    if t.optim == "auto":
        more["optim"] = _optimizer(device)
    if t.loss_chunk is None:
        more["loss_chunk"] = max(64, min(1024, LOGITS // vocabulary))
    if t.eval_steps is None:
        more["eval_steps"] = max(1, round((t.steps or 1) / 5))
    if t.save_steps is None:
        more["save_steps"] = max(1, round((t.steps or 1) / 5))
    if settings.data.packing is None:
        more["packing"] = cuda and settings.model.attn_implementation == "flash_attention_2"
    return settings.replace(f"default ({device.name})", **more) if more else settings


def _balanced(settings: Settings, prepared: Prepared) -> Settings:
    """KTO's weights from the counts of both labels, where the user gave none."""
    wanted, unwanted = label_counts(prepared.train)
    for name, weight in zip(
        ("kto_desirable_weight", "kto_undesirable_weight"), balanced_weights(wanted, unwanted), strict=True
    ):
        if getattr(settings.method, name) is None:
            settings = settings.replace(f"default ({wanted} wanted, {unwanted} unwanted)", **{name: weight})
    return settings


def plan_of(settings: Settings, prepared: Prepared) -> StepPlan:
    """The plan of optimizer steps that the settings ask for."""
    t = settings.training
    size = min((t.batch_size or STEP_EXAMPLES) * (t.gradient_accumulation or 1), len(prepared.train))
    return StepPlan(
        prepared.train.lengths, size, t.seed, t.batching == "grouped", prepared.train.source, prepared.weights
    )


def _optimizer(device: Device) -> str:
    if device.device.type == "cuda":
        import importlib.util

        small = torch.cuda.get_device_properties(device.device).total_memory < 24e9
        if small and importlib.util.find_spec("bitsandbytes") is not None:
            return "paged_adamw_8bit"
    return "adamw_torch_fused"


def warnings_for(settings: Settings, prepared: Prepared) -> list[str]:
    """What the user asked for and will very likely regret, one sentence each."""
    t, lora = settings.training, settings.lora
    method = settings.method
    told = [
        f"--{name.replace('_', '-')} is of {name.split('_')[0]} and does nothing with {method.method}"
        for name in (k.name for k in knobs(MethodSettings))
        if settings.given(name) and name.split("_")[0] in METHODS and name.split("_")[0] != method.method
    ]
    if settings.given("label_smoothing") and method.method != "dpo":
        told.append(f"--label-smoothing is of dpo and does nothing with {method.method}")
    if method.method == "simpo" and method.simpo_gamma > method.simpo_beta:
        told.append(
            f"simpo-gamma {method.simpo_gamma:g} is more than simpo-beta {method.simpo_beta:g}: "
            "a margin past the rewards' own scale makes answers degenerate; half of beta is usual"
        )
    high = HIGH_RATES[method.method]
    if settings.given("learning_rate") and (t.learning_rate or 0) > high and settings.model.model != "tiny":
        told.append(
            f"a learning rate of {t.learning_rate:g} usually diverges with {method.method} and LoRA; "
            f"{LEARNING_RATES[method.method]:g} is the default"
        )
    if settings.given("alpha") and lora.rank and lora.alpha and lora.alpha < lora.rank / 4:
        told.append(f"alpha {lora.alpha:g} is small for rank {lora.rank}: the adapter will learn slowly")
    epochs = (t.steps or 0) / max(1, plan_of(settings, prepared).steps_per_epoch)
    if settings.given("steps") and epochs > 20 and settings.model.model != "tiny":
        told.append(
            f"{t.steps} steps pass over the data {epochs:.0f} times; past a few times it is learnt by heart"
        )
    if settings.given("batch_size") and (t.batch_size or 0) > len(prepared.train):
        told.append(f"a batch of {t.batch_size} is more than the {len(prepared.train)} examples there are")
    return told


def cpu_hours(parameters: int, tokens: float) -> float:
    """Estimated hours of training on this CPU: 6 operations per parameter and token, at half a measured matrix product.

    Args:
        parameters: of the whole model.
        tokens: that all steps together see.
    """
    a = torch.randn(512, 512)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        torch.mm(a, a)
        count += 1
    rate = count * 2 * 512**3 / (time.perf_counter() - started)
    return 6 * parameters * tokens / (0.5 * rate) / 3600
