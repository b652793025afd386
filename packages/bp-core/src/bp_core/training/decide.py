"""What the user left open, decided for this run: by preset, by the model's recommendation, by the device, by the data.

- An explicit value always wins; where it is very likely a mistake, that is said.
- Every decision names who made it, so that the table of settings tells «default (preset balanced)» from «flag».
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from bp_merge.common import BpError, knobs

from bp_core.encoding.dataset import Prepared
from bp_core.encoding.steps import StepPlan
from bp_core.models.device import Device
from bp_core.settings.decided import Decided, is_open, value_of
from bp_core.settings.groups.lora import LoraSettings
from bp_core.settings.groups.method import MethodSettings
from bp_core.settings.groups.rl import RlSettings
from bp_core.settings.knobs import Settings
from bp_core.settings.optimizers import default_optimizer
from bp_core.settings.tables import (
    HIGH_RATES,
    LEARNING_RATES,
    METHODS,
    PARTS,
    PRESETS,
    RL_METHODS,
    STEP_EXAMPLES,
    STEPS,
    loss_chunk,
)
from bp_core.training.answers_a_step import answers_of, steps_per_epoch
from bp_core.training.objectives.kto import balanced_weights, label_counts

ISOLATING = ("flash_attention_2", "flash_attention_3", "flex_attention")  # packed rows cost them no mask


def decide(
    settings: Settings,
    recommended: dict[str, Any],
    device: Device,
    prepared: Prepared,
    *,
    vocabulary: int,
    attention: str = "sdpa",
) -> Decided:
    """Fill whatever is open; what is decided already stays, so that a record decides to itself.

    Args:
        settings: as resolved, or as recorded.
        recommended: of the model, may be empty.
        device: in use.
        prepared: the data.
        vocabulary: of the model.
        attention: the fastest kernel that it and the device have.
    """
    made = with_recommended(settings, recommended)

    def choose(name: str, by: str, otherwise: Callable[[], Any]) -> Any:
        nonlocal made
        value = value_of(made, name)
        if is_open(name, value):
            value = otherwise()
            made = made.replace(f"default ({by})" if by else "default", **{name: value})
        return value

    if made.lora.preset == "auto":
        made = made.replace("default", preset="balanced")
    t, preset, method = made.training, made.lora.preset, made.method.method
    rank = choose("rank", f"preset {preset}", lambda: PRESETS[preset]["rank"])
    choose("target_modules", f"preset {preset}", lambda: PRESETS[preset]["target_modules"])
    choose("alpha", "by rank", lambda: float(2 * rank if rank <= 64 else rank))
    mode = made.model.mode
    choose("learning_rate", f"method {method}, mode {mode}", lambda: LEARNING_RATES[mode][method])
    if method == "kto":
        made = _balanced(made, prepared)

    asked, pieces, by = t.batch_size, len(prepared.train), f"{STEP_EXAMPLES} examples a step"
    if method in RL_METHODS:
        drawn = answers_of(made.rl.group_size, pieces, asked, t.gradient_accumulation)
        by = f"groups of {made.rl.group_size} answers"
        size, accumulation = (
            choose("batch_size", by, lambda: drawn[0]),
            choose("gradient_accumulation", by, lambda: drawn[1]),
        )
        made = _by_rewards(made, size * accumulation, pieces)
    else:
        accumulation = choose(
            "gradient_accumulation", by, lambda: 1 if asked is None else max(1, STEP_EXAMPLES // asked)
        )
        size = choose("batch_size", by, lambda: min(max(1, STEP_EXAMPLES // accumulation), pieces))

    def passes(epochs: float) -> int:
        return max(1, math.ceil(epochs * _epoch(made, size * accumulation, prepared)))

    if t.epochs is None:
        steps = choose("steps", "", lambda: STEPS)
    else:
        epochs = t.epochs
        steps = choose("steps", f"{epochs:g} epochs", lambda: passes(epochs))

    wanted = made.model.wanted_quantization
    choose("quantization", "load-in-4bit or load-in-8bit", lambda: "none" if wanted == "auto" else wanted)
    cuda, part = device.device.type == "cuda", max(1, round(steps / PARTS))
    choose("warmup_steps", device.name, lambda: round(t.warmup_ratio * steps))
    choose("gradient_checkpointing", device.name, lambda: cuda or made.model.full_ft_offload)
    choose("recompute", device.name, lambda: "layers")
    choose("optim", device.name, lambda: _optimizer(made, device))
    kernel = choose("attn_implementation", device.name, lambda: attention)
    choose("length_buckets", device.name, lambda: cuda or t.compile)
    choose("loss_chunk", device.name, lambda: loss_chunk(vocabulary))
    choose("eval_steps", device.name, lambda: part)
    choose("save_steps", device.name, lambda: part)
    choose("packing", device.name, lambda: cuda and kernel in ISOLATING)
    return Decided.of(made)


def with_recommended(settings: Settings, recommended: dict[str, Any]) -> Settings:
    """What the model recommends, where the user gave nothing else."""
    taken = {
        name: value
        for name, value in recommended.items()
        if not settings.given(name)
        and not (name == "steps" and settings.training.epochs)
        and not (name == "learning_rate" and (settings.method.method, settings.model.mode) != ("sft", "lora"))
    }
    return settings.replace(f"default ({settings.model.model})", **taken) if taken else settings


def _balanced(settings: Settings, prepared: Prepared) -> Settings:
    """KTO's weights from the counts of both labels, where the user gave none."""
    wanted, unwanted = label_counts(prepared.train)
    for name, weight in zip(
        ("kto_desirable_weight", "kto_undesirable_weight"), balanced_weights(wanted, unwanted), strict=True
    ):
        if getattr(settings.method, name) is None:
            settings = settings.replace(f"default ({wanted} wanted, {unwanted} unwanted)", **{name: weight})
    return settings


def _by_rewards(settings: Settings, answers: int, prompts: int) -> Settings:
    """What learning from rewards leaves to its method.

    Raises:
        BpError: `CONFIG_CONFLICT` where a step holds no whole groups, or more prompts than there are.
    """
    rl, group = settings.rl, settings.rl.group_size
    if answers % group or answers > group * prompts:
        what = (
            f"needs {answers // group} prompts, the data has {prompts}"
            if not answers % group
            else f"holds no whole groups of {group}"
        )
        raise BpError(
            "CONFIG_CONFLICT",
            f"a step of {answers} answers {what}",
            f"add --batch-size {group} --gradient-accumulation 1 to the command",
        )
    gspo = settings.method.method == "gspo"
    usual = {
        "importance_level": "sequence" if gspo else "token",
        "grpo_loss": "grpo" if gspo else "dapo",
        "clip_high": rl.clip_low,
    }
    left = {name: value for name, value in usual.items() if getattr(rl, name) is None}
    return settings.replace(f"default (method {settings.method.method})", **left) if left else settings


def epoch_of(decided: Decided, prepared: Prepared) -> int:
    """Optimizer steps of a pass over the data."""
    return _epoch(decided.settings, decided.batch_size * decided.gradient_accumulation, prepared)


def _epoch(settings: Settings, size: int, prepared: Prepared) -> int:
    if settings.method.method not in RL_METHODS:
        return _plan(settings, size, prepared).steps_per_epoch
    rl = settings.rl
    return steps_per_epoch(rl.group_size, len(prepared.train), size, rl.num_iterations)


def tokens_of(decided: Decided, prepared: Prepared) -> float:
    """Tokens that all steps together learn from, as far as is known before: answers count as long as they may be."""
    mean, size = float(prepared.train.lengths.mean()), decided.batch_size * decided.gradient_accumulation
    if decided.settings.method.method in RL_METHODS:
        return (mean + decided.settings.rl.max_completion_length) * size * decided.steps
    return mean * min(size, len(prepared.train)) * decided.steps


def plan_of(decided: Decided, prepared: Prepared) -> StepPlan:
    """The plan of optimizer steps of a run."""
    return _plan(decided.settings, decided.batch_size * decided.gradient_accumulation, prepared)


def _plan(settings: Settings, size: int, prepared: Prepared) -> StepPlan:
    t, train = settings.training, prepared.train
    return StepPlan(
        train.lengths,
        min(size, len(train)),
        t.seed,
        t.batching == "grouped",
        train.source,
        prepared.weights,
    )


def _optimizer(settings: Settings, device: Device) -> str:
    model = settings.model
    return default_optimizer(model.mode, device.device.type, device.memory, offload=model.full_ft_offload)


def warnings_for(decided: Decided, prepared: Prepared) -> list[str]:
    """What the user asked for and will very likely regret, one sentence each."""
    d, settings = decided, decided.settings
    tiny = settings.model.model == "tiny"
    method = settings.method
    told = [
        f"--{name.replace('_', '-')} is of {name.split('_')[0]} and does nothing with {method.method}"
        for name in (k.name for k in knobs(MethodSettings))
        if settings.given(name) and name.split("_")[0] in METHODS and name.split("_")[0] != method.method
    ]
    told += _idle(settings)
    if settings.given("label_smoothing") and method.method != "dpo":
        told.append(f"--label-smoothing is of dpo and does nothing with {method.method}")
    if method.method == "simpo" and method.simpo_gamma > method.simpo_beta:
        told.append(
            f"simpo-gamma {method.simpo_gamma:g} is more than simpo-beta {method.simpo_beta:g}: "
            "a margin past the rewards' own scale makes answers degenerate; half of beta is usual"
        )
    mode = settings.model.mode
    high, usual = HIGH_RATES[mode][method.method], LEARNING_RATES[mode][method.method]
    if settings.given("learning_rate") and d.learning_rate > high and not tiny:
        told.append(
            f"a learning rate of {d.learning_rate:g} usually diverges with {method.method} and --mode {mode}; "
            f"{usual:g} is the default"
        )
    if mode == "full":
        told += [
            f"--{k.name.replace('_', '-')} is of adapters and does nothing with --mode full"
            for k in knobs(LoraSettings)
            if settings.given(k.name)
        ]
    elif settings.given("full_ft_ceiling_billions"):
        told.append("--full-ft-ceiling-billions is of --mode full and does nothing with --mode lora")
    if settings.model.full_ft_offload and settings.given("gradient_checkpointing"):
        told.append("--full-ft-offload computes activations again, whatever --gradient-checkpointing says")
    if settings.given("alpha") and d.alpha < d.rank / 4:
        told.append(f"alpha {d.alpha:g} is small for rank {d.rank}: the adapter will learn slowly")
    epochs = d.steps / epoch_of(d, prepared)
    if settings.given("steps") and epochs > 20 and not tiny:
        told.append(
            f"{d.steps} steps pass over the data {epochs:.0f} times; past a few times it is learnt by heart"
        )
    if (
        settings.given("batch_size")
        and d.batch_size > len(prepared.train)
        and method.method not in RL_METHODS
    ):
        told.append(f"a batch of {d.batch_size} is more than the {len(prepared.train)} examples there are")
    return told


def _idle(settings: Settings) -> list[str]:
    """Settings of learning from rewards that do nothing here."""
    method, rl = settings.method.method, settings.rl
    if method not in RL_METHODS:
        taken = ("prompt_template",) if method == "sft" else ()
        names = [k.name for k in knobs(RlSettings) if settings.given(k.name) and k.name not in taken]
        return [f"--{n.replace('_', '-')} is of rewards and does nothing with {method}" for n in names]
    idle = [
        "packing",
        "batching",
        "loss_chunk",
        "length_buckets",
        "dataloader_workers",
        "preflight",
        "oom_recovery",
    ]
    told = [
        f"--{n.replace('_', '-')} does nothing with {method}: TRL's trainer draws and learns"
        for n in idle
        if settings.given(n)
    ]
    if not rl.pre_training_epochs:
        told += [
            f"--{n.replace('_', '-')} does nothing without a pre-training: add --pre-training-epochs 1"
            for n in ("pre_training_samples", "pre_training_learning_rate")
            if settings.given(n)
        ]
    if rl.num_iterations == 1:
        told += [
            f"--{n.replace('_', '-')} does nothing where answers are learnt from once: add --num-iterations 2"
            for n in ("clip_low", "clip_high")
            if settings.given(n)
        ]
    return told


def cpu_hours(parameters: int, tokens: float) -> float:
    """Estimated hours of training on this CPU: 6 operations per parameter and token, at half a measured matrix product.

    The fastest product counts: the first ones start threads, and others wait for what else the machine does.

    Args:
        parameters: of the whole model.
        tokens: that all steps together see.
    """
    a = torch.randn(512, 512)
    ticks = [time.perf_counter()]
    while ticks[-1] - ticks[0] < 0.1 or len(ticks) < 10:
        torch.mm(a, a)
        ticks.append(time.perf_counter())
    rate = 2 * 512**3 / min(after - before for before, after in itertools.pairwise(ticks))
    return 6 * parameters * tokens / (0.5 * rate) / 3600
