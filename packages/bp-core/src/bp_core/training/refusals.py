"""What can be refused before torch is loaded: settings, names, files. Asked once, by whoever has the settings first.

- Nothing is read but headers and configurations, nothing is downloaded but a model's configuration and tokenizer.
- No torch: a typo is told in a fraction of the seconds that the heavy imports take.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from bp_export.adapter.base import ResolvedBase
from bp_export.adapter.directory import AdapterInfo

from bp_core.encoding.sources import named, parse_sources
from bp_core.encoding.templates import refuse_template
from bp_core.errors import BpError, as_ours
from bp_core.memory.shortlist import full_id
from bp_core.memory.source import find_base
from bp_core.models.backend import refuse_backend, settled_for
from bp_core.models.stored_quantization import refuse_missing, refuse_stored
from bp_core.runs import trackers
from bp_core.runs.rows import refuse_no_folder
from bp_core.safety.guards import HeatGuard
from bp_core.settings.knobs import Settings
from bp_core.settings.optimizers import BITSANDBYTES, PUBLISHED_AS, TAKEN, installed
from bp_core.settings.tables import RL_METHODS
from bp_core.support.launch import launch


def refuse_early(
    settings: Settings, tell: Callable[[str], None], *, data: bool = True
) -> tuple[Settings, ResolvedBase]:
    """Settings whose parts are there and do not contradict each other, with Hub datasets named as such.

    Args:
        settings: as resolved.
        tell: hears what a name was taken for.
        data: whether the datasets of the settings are used; False where rows are given in memory.

    Returns:
        The settings, and their base model: its configuration and tokenizer are there, its weights may not be.

    Raises:
        BpError: `CONFIG_…` for settings, `INPUT_…` and `DEP_…` for what is named and not there.
    """
    contradictions(settings)
    refuse_backend(settings)
    settings = settled_for(settings)
    refuse_template(settings.model.chat_template)
    trackers.check(settings.tracking.trackers)
    refuse_no_folder(settings.tracking.output)
    if data:
        parse_sources(settings.data.data)
        settings = named(settings, tell)
    with as_ours():
        _refuse_reading(settings)
    if settings.model.init_adapter is not None:
        AdapterInfo.read(settings.model.init_adapter)
    settings = named_model(settings, tell)
    base = find_base(settings.model.model, settings.model.revision)
    if base.note:
        tell(base.note)
    refuse_stored(settings, base.path)
    return settings, base


def named_model(settings: Settings, tell: Callable[[str], None]) -> Settings:
    """Settings with the Hub id for a short name of the shortlist, which is told."""
    model = full_id(settings.model.model)
    if model == settings.model.model:
        return settings
    tell(f"{settings.model.model} is {model}")
    return settings.replace(settings.sources.get("model.model", "given"), model=model)


def _refuse_reading(settings: Settings) -> None:
    from bp_data.formats import format_named
    from bp_data.mapping import parse_map

    if settings.data.data_format != "auto":
        format_named(settings.data.data_format)
    if settings.data.map is not None:
        parse_map(settings.data.map)


def contradictions(settings: Settings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        BpError: `CONFIG_CONFLICT`; `CONFIG_INVALID_SETTING` for temperatures that do not rise; `INPUT_METRIC_UNKNOWN`;
            `DEP_…_MISSING` for a package that they need.
    """
    training, safety = settings.training, settings.safety
    if training.steps is not None and training.epochs is not None:
        raise BpError("CONFIG_CONFLICT", "steps and epochs were both given", "give --steps or --epochs")
    method = settings.method
    if method.method != "sft" and settings.data.truncate:
        raise BpError(
            "CONFIG_CONFLICT",
            f"--truncate would cut the answers that {method.method} compares",
            "leave --truncate out",
        )
    if method.method != "sft" and settings.data.reasoning_trace:
        raise BpError(
            "CONFIG_CONFLICT",
            f"--reasoning-trace is supervised training, not {method.method}",
            "leave --reasoning-trace out, or set --method sft",
        )
    if method.method == "dpo" and method.label_smoothing and method.dpo_loss not in ("sigmoid", "robust"):
        raise BpError(
            "CONFIG_CONFLICT",
            f"the loss {method.dpo_loss} knows no label smoothing",
            "add --method dpo --dpo-loss robust --label-smoothing 0.1 to the command",
        )
    model = settings.model
    if model.mode == "full":
        if model.init_adapter is not None:
            raise BpError(
                "CONFIG_CONFLICT",
                "--init-adapter goes on with an adapter, --mode full trains the whole model",
                f"merge it first, and train what comes out: backprop export {shlex.quote(str(model.init_adapter))} --format merged",
            )
        if training.fp8:
            raise BpError(
                "CONFIG_CONFLICT", "--fp8 is of frozen weights, --mode full has none", "leave --fp8 out"
            )
    _contradictory_offload(settings)
    if method.method in RL_METHODS:
        _contradictory_rewards(settings)
    elif settings.rl.prompt_template is not None:
        from bp_core.rewards.prompt_templates import template_named

        template_named(settings.rl.prompt_template, settings.tracking.output)
    _contradictory_start(settings)
    _contradictory_quantization(settings)
    _refuse_missing_optimizer(training.optim)
    for name in training.eval_metrics:
        from bp_core.evaluation.metrics import get_metric

        get_metric(name)
    if training.best_by not in ("loss", *training.eval_metrics):
        raise BpError(
            "CONFIG_CONFLICT",
            f"the best evaluation shall be found by {training.best_by}, which is not measured",
            f"add --eval-metric {training.best_by} to the command, or leave --best-by out",
        )
    HeatGuard(
        safety.pause_temperature, safety.resume_temperature, safety.abort_temperature
    )  # refuses a wrong order


def _contradictory_offload(settings: Settings) -> None:
    """Refuse what layers in main memory do not go with.

    Raises:
        BpError: `CONFIG_CONFLICT`.
    """
    model, training = settings.model, settings.training
    if not model.full_ft_offload:
        return
    flag = "--full-ft-offload keeps layers that are trained in main memory"
    for wrong, what, mend in (
        (
            model.mode != "full",
            "an adapter trains none",
            "add --mode full to the command, or leave --full-ft-offload out",
        ),
        (launch().world > 1, "several processes share cards", "start one process: backprop train"),
        (model.dtype == "float16", "scaled fp16 losses are not for two devices", "leave --dtype out"),
        (
            bool(TAKEN.get(training.optim)),
            f"{training.optim} is of a card's",
            "add --optim adamw_torch_fused to the command",
        ),
        (training.compile, "compiled layers stay on the card", "leave --compile out"),
    ):
        if wrong:
            raise BpError("CONFIG_CONFLICT", f"{flag}; {what}", mend)


def _refuse_missing_optimizer(name: str) -> None:
    """Refuse an optimizer whose package is not installed.

    Raises:
        BpError: `DEP_OPTIMIZER_MISSING`; `DEP_BITSANDBYTES_MISSING`.
    """
    package = TAKEN.get(name, "")
    if package == BITSANDBYTES:
        refuse_missing(what=f"--optim {name}")
    elif not installed(package):
        raise BpError(
            "DEP_OPTIMIZER_MISSING",
            f"--optim {name} needs {package}, which is not installed",
            f"pip install {PUBLISHED_AS[package]}",
        )


def _contradictory_rewards(settings: Settings) -> None:
    """Refuse what learning from rewards cannot do.

    Raises:
        BpError: `CONFIG_CONFLICT`; `CONFIG_REWARD_INVALID`, `CONFIG_PROMPT_TEMPLATE` for what cannot be read.
    """
    rl, training, method = settings.rl, settings.training, settings.method.method
    data = shlex.quote(settings.data.data[0]) if settings.data.data else "my_data.jsonl"
    if rl.rewards is None:
        raise BpError(
            "CONFIG_CONFLICT",
            f"{method} learns from rewards, and none are named",
            f"propose some for the data, then add --rewards rewards.toml: backprop reward suggest {data} --write rewards.toml",
        )
    size = (training.batch_size or 0) * (training.gradient_accumulation or 0)
    conflicts = (
        (settings.model.mode == "full", f"{method} trains an adapter, not the whole model", "leave --mode out"),
        (launch().world > 1, f"{method} trains in one process, not in {launch().world}", "start it without a launcher: backprop train"),
        (any("=" in name for name in settings.data.data), f"{method} asks each prompt as often as any other: a weight says nothing", "leave the weights out"),
        (bool(training.compile or training.fast_lora or training.fused_layers), f"TRL's trainer takes no other layers for {method}", "leave --compile, --fast-lora and --fused-layers out"),
        (method == "rloo" and (rl.importance_level, rl.grpo_loss) != (None, None), "rloo takes ratios of whole answers and has one loss", "leave --importance-level and --grpo-loss out, or add --method grpo to the command"),
        (method == "gspo" and rl.importance_level == "token", "gspo takes the ratio of a whole answer", "add --method grpo --importance-level token to the command"),
        (bool(rl.kl_beta) and settings.lora.init_lora_weights.startswith(("pissa", "olora", "eva")), f"the KL divergence is from the model at the start, which {settings.lora.init_lora_weights} does not keep", "add --kl-beta 0 to the command, or --init-lora-weights default"),
        (bool(rl.pre_training_epochs) and settings.lora.init_lora_weights != "default", "the rewards go on with the adapter of the pre-training, whatever its start", "leave --init-lora-weights out, or --pre-training-epochs"),
        (bool(size % rl.group_size), f"a step of {size} answers holds no whole groups of {rl.group_size}", f"add --batch-size {rl.group_size} --gradient-accumulation 1 to the command"),
    )  # fmt: skip
    for wrong, cause, hint in conflicts:
        if wrong:
            raise BpError("CONFIG_CONFLICT", cause, hint)
    from bp_core.rewards.compose import load_set, template_of

    load_set(rl.rewards, run_code=rl.run_code)
    template_of(rl.rewards, rl.prompt_template, settings.tracking.output)


def _contradictory_start(settings: Settings) -> None:
    """Refuse an initialisation of the adapter that cannot be, or that nothing would come of.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` for LoftQ, `CONFIG_CONFLICT`.
    """
    lora, start = settings.lora, settings.lora.init_lora_weights
    if start == "loftq":
        raise BpError(
            "CONFIG_INVALID_SETTING",
            "loftq makes the base its own rounded copy, which nobody else has: the adapter would fit no model that can be"
            " loaded",
            "add --init-lora-weights pissa to the command: it keeps the base as it is",
        )
    if start == "orthogonal" and lora.rank is not None and lora.rank % 2:
        raise BpError(
            "CONFIG_CONFLICT",
            f"an orthogonal start needs an even rank, not {lora.rank}",
            f"add --rank {lora.rank + 1} to the command",
        )
    if settings.model.init_adapter is not None and start != "default":
        raise BpError(
            "CONFIG_CONFLICT",
            f"--init-adapter goes on with weights that are there, --init-lora-weights {start} makes new ones",
            "leave --init-lora-weights out",
        )


def _contradictory_quantization(settings: Settings) -> None:
    """Refuse formats of the frozen weights that contradict each other, or the rest.

    Raises:
        BpError: `CONFIG_CONFLICT`; `DEP_BITSANDBYTES_MISSING`.
    """
    model, wanted = settings.model, settings.model.wanted_quantization
    fits_4, fits_8 = ("auto", "nf4", "fp4"), ("auto", "int8")
    if (model.load_in_4bit and (model.load_in_8bit or model.quantization not in fits_4)) or (
        model.load_in_8bit and model.quantization not in fits_8
    ):
        raise BpError(
            "CONFIG_CONFLICT",
            "the base can have one format: "
            + ", ".join(
                told
                for told, given in (
                    ("--load-in-4bit", model.load_in_4bit),
                    ("--load-in-8bit", model.load_in_8bit),
                    (f"--quantization {model.quantization}", model.quantization != "auto"),
                )
                if given
            )
            + " were given",
            "give --quantization alone: nf4, fp4 or int8",
        )
    if wanted in ("auto", "none"):
        return
    if model.mode == "full":
        raise BpError(
            "CONFIG_CONFLICT",
            f"--quantization {wanted} is of frozen weights, --mode full has none",
            "add --mode lora to the command, or leave the quantisation out",
        )
    start = settings.lora.init_lora_weights
    if start.startswith(("pissa", "olora")):
        raise BpError(
            "CONFIG_CONFLICT",
            f"{start} changes the base weights, which a base in {wanted} cannot take without rounding them again",
            "add --init-lora-weights default to the command, or leave the quantisation out",
        )
    refuse_missing()
