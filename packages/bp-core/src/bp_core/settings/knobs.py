"""Every setting of a run, declared once.

- One frozen dataclass a group; one field a knob. Keyword, flag, environment name, docs row, run record and what
  resume and replay reuse are all read from the field.
- Importing this file loads neither torch nor pydantic: the command line prints its help from it.
- A default of None means «decided for this run» (by preset, model or device); the table `PRESETS`, the model's own
  `recommended.json` and `bp_core.device` decide, and the run record stores what was decided and by whom.
- Field names are unique over all groups, so that a flat keyword or flag names one knob.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt
from bp_data.split_settings import SplitSettings
from bp_merge.common import Knob, knob, knobs, like

MANY = 10**9  # above what any run counts; a number past it is a mistake, and arithmetic on it may not end
METHODS = ("sft", "dpo", "orpo", "simpo", "kto")
DEFAULT_MODEL = "Qwen/Qwen2.5-7B-Instruct"


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model: str = knob(
        DEFAULT_MODEL,
        "Base model: a Hub id, a folder, or `tiny` (embedded).",
        group="Model",
        flags=("-m",),
        env=("BACKPROPAGATE_MODEL__NAME",),
        keywords=("model_name", "name"),
    )
    revision: str | None = knob(None, "Commit, tag or branch of a Hub model.", group="Model")
    dtype: str = knob(
        "auto",
        "Number format of the frozen weights; auto is bf16 on a card that has it, fp32 on the CPU.",
        group="Model",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    backend: str = knob(
        "auto",
        "Where to compute.",
        group="Model",
        choices=("auto", "cuda", "cpu", "mlx"),
        env=("BACKPROPAGATE_TRAINING__BACKEND",),
    )
    attn_implementation: str = knob(
        "auto",
        "Attention kernel; auto is sdpa.",
        group="Model",
        choices=("auto", "sdpa", "eager", "flash_attention_2"),
    )
    max_seq_length: Annotated[int, Gt(0), Le(2**24)] = knob(
        2048,
        "Longest example; a longer one is rejected, or cut with --truncate.",
        group="Model",
        unit="tokens",
        flags=("--max-length",),
        keywords=("max_length",),
    )
    chat_template: str | None = knob(
        None,
        "Template for a model that has none, or instead of its own: chatml, gemma, llama3, mistral, plain, or a Jinja file.",
        group="Model",
    )
    init_adapter: Path | None = knob(None, "Continue training this adapter.", group="Model")
    trust_remote_code: bool = knob(False, "Run Python code that comes with a Hub model.", group="Model")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What is learnt."""

    data: tuple[str, ...] = knob(
        (),
        "Dataset: file, folder, glob, `hf:ID`; repeat it to mix, with a weight as in a.jsonl=0.7.",
        group="Data",
        flags=("-d",),
        whole=True,
    )
    data_format: str = knob(
        "auto", "Row format, where detection should not decide.", group="Data", flags=("--format",)
    )
    map: str | None = knob(
        None, "Field mapping, as question=prompt,answer=completion.", group="Data", flags=("--map-json",)
    )
    drop_keys: str = knob(
        "",
        "Columns, or keys of messages and tools, that need not be trained on: id_text,comment.",
        group="Data",
    )
    samples: Annotated[int, Gt(0), Le(MANY)] | None = knob(
        None, "Use at most this many examples.", group="Data", unit="examples", keywords=("max_samples",)
    )
    heldout: str | None = knob(None, "Held-out file, instead of splitting one off.", group="Data")
    heldout_ratio: Annotated[float, Ge(0), Lt(1)] = like(
        SplitSettings,
        "ratio",
        help="Share of the data held out for evaluation; near-duplicates never straddle the split.",
        group="Data",
        flags=(),
    )
    truncate: bool = knob(False, "Cut examples that are too long instead of rejecting them.", group="Data")
    packing: bool | None = knob(
        None,
        "Put several examples into one row; only where attention is seen to keep them apart. Default: on with "
        "flash_attention_2, else off, as similar lengths are batched together anyway.",
        group="Data",
    )
    reasoning_trace: bool = knob(
        False,
        "Learn from reasoning: rows without it are dropped and counted, and max-seq-length is 8192 unless given.",
        group="Data",
    )
    min_trace_tokens: Annotated[int, Ge(1), Le(10**7)] = knob(
        1, "Fewest tokens of reasoning, with --reasoning-trace.", group="Data", unit="tokens"
    )
    max_trace_tokens: Annotated[int, Ge(1), Le(10**7)] | None = knob(
        None, "Most tokens of reasoning, with --reasoning-trace.", group="Data", unit="tokens"
    )
    preview: Annotated[int, Ge(0), Le(MANY)] = knob(
        1, "Show this many examples with their loss mask before training.", group="Data", unit="examples"
    )
    min_trainable: Annotated[float, Ge(0), Le(1)] = knob(
        0.01, "Refuse to train where a smaller share of the tokens carries a label.", group="Data"
    )


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """What is optimised."""

    method: str = knob(
        "sft",
        "sft: learn the answers. From pairs: dpo (arXiv:2305.18290), orpo (2403.07691), simpo (2405.14734). "
        "From single judgements: kto (2402.01306).",
        group="Method",
        choices=METHODS,
        env=("BACKPROPAGATE_TRAINING__METHOD",),
    )
    dpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Strength of DPO's tie to the model as it was before the first step.", group="Method"
    )
    dpo_loss: str = knob(
        "sigmoid",
        "Loss of a pair: sigmoid (DPO), ipo, hinge (SLiC), robust (for noisy labels).",
        group="Method",
        choices=("sigmoid", "ipo", "hinge", "robust"),
    )
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = knob(
        0.0,
        "Share of pairs whose label is taken to be wrong; DPO's losses sigmoid and robust use it.",
        group="Method",
    )
    orpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Weight of ORPO's odds-ratio term beside the likelihood of the chosen answer.", group="Method"
    )
    simpo_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        2.0, "Scale of SimPO's rewards, the mean log-probabilities.", group="Method"
    )
    simpo_gamma: Annotated[float, Ge(0), Le(1e6)] = knob(
        1.0,
        "Margin that SimPO asks of the chosen answer's reward; at most simpo-beta is usual.",
        group="Method",
    )
    kto_beta: Annotated[float, Gt(0), Le(1e6)] = knob(
        0.1, "Strength of KTO's tie to the model as it was before the first step.", group="Method"
    )
    kto_desirable_weight: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None,
        "Weight of wanted answers in KTO. Default: such that wanted and unwanted ones count 1:1 to 4:3.",
        group="Method",
    )
    kto_undesirable_weight: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None, "Weight of unwanted answers in KTO. Default: likewise.", group="Method"
    )


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The adapter (LoRA, arXiv:2106.09685)."""

    preset: str = knob(
        "balanced",
        "fast: rank 16 on q and v; balanced: rank 32 on all linear layers; quality: rank 256 on all linear layers.",
        group="LoRA",
        choices=("fast", "balanced", "quality"),
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
        "How A and B start; every choice leaves the base weights as they are.",
        group="LoRA",
        choices=("default", "gaussian", "orthogonal"),
    )


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
        "Examples per forward pass. Default: the whole step, halved when memory runs out.",
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
        "Optimizer; auto is paged 8-bit AdamW on a card under 24 GB that has bitsandbytes, else fused AdamW.",
        group="Training",
        choices=(
            "auto",
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_8bit",
            "paged_adamw_8bit",
            "sgd",
            "adafactor",
        ),
    )
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(
        42, "Seed of split, order, initialisation and dropout.", group="Training"
    )
    gradient_checkpointing: bool | None = knob(
        None,
        "Recompute activations to save memory. Default: on with a card, off on the CPU.",
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
    save_steps: Annotated[int, Ge(0), Le(MANY)] | None = knob(
        None,
        "Save a checkpoint every so many steps; 0 only at the end. Default: a fifth of the run.",
        group="Training",
    )
    patience: Annotated[int, Ge(0), Le(MANY)] = knob(
        0, "Stop after so many evaluations without a better held-out loss; 0 never.", group="Training"
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


@dataclasses.dataclass(frozen=True)
class SafetySettings:
    """What looks after the run and the card."""

    oom_recovery: bool = knob(True, "Halve the micro-batch and go on when memory runs out.", group="Safety")
    preflight: bool = knob(True, "Run the longest batch once before training.", group="Safety")
    monitor: bool = knob(True, "Watch temperature, power and memory of the card.", group="Safety")
    pause_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        90.0, "Pause at this temperature.", group="Safety", unit="°C"
    )
    resume_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        80.0, "Go on below this temperature.", group="Safety", unit="°C"
    )
    abort_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        95.0, "Save and stop at this temperature.", group="Safety", unit="°C"
    )
    spike_factor: Annotated[float, Gt(1), Le(1e9)] = knob(
        10.0,
        "Stop where the loss exceeds its running mean by so many standard deviations, for several steps.",
        group="Safety",
    )
    min_free_disk_gb: Annotated[float, Ge(0), Le(1e9)] = knob(
        1.0, "Save and stop below this free disk space.", group="Safety", unit="GB"
    )
    allow_cpu: bool = knob(False, "Train on the CPU even where it would take long.", group="Safety")
    max_cpu_hours: Annotated[float, Gt(0), Le(1e9)] = knob(
        6.0, "Estimated CPU time past which a run without a card is refused.", group="Safety", unit="h"
    )


@dataclasses.dataclass(frozen=True)
class TrackingSettings:
    """Where results and logs go."""

    output: Path = knob(
        Path("output"),
        "Folder that holds runs.db and a folder per run.",
        group="Tracking",
        flags=("-o",),
        env=("BACKPROPAGATE_OUTPUT_DIR",),
        keywords=("output_dir",),
    )
    trackers: tuple[str, ...] = knob(
        (),
        "Also log to wandb, tensorboard, mlflow or trackio; repeat it.",
        group="Tracking",
        flags=("--tracker", "--report-to"),
        keywords=("report_to",),
    )
    log_level: str = knob(
        "INFO",
        "Lowest level that is logged.",
        group="Tracking",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        env=("BACKPROPAGATE_LOG_LEVEL",),
        hidden=True,
    )
    log_json: bool = knob(
        False, "One JSON object per log line.", group="Tracking", env=("BACKPROPAGATE_LOG_JSON",), hidden=True
    )
    log_file: Path | None = knob(
        None, "Also log to this file.", group="Tracking", env=("BACKPROPAGATE_LOG_FILE",), hidden=True
    )


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How a tuned model answers; of `generate`, not of a run."""

    max_new_tokens: Annotated[int, Gt(0), Le(2**24)] = knob(128, "Longest answer.", unit="tokens")
    temperature: Annotated[float, Ge(0), Le(100)] = knob(0.0, "0 takes the most likely token.")
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(0, "Seed of sampling.")


GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "method": MethodSettings,
    "lora": LoraSettings,
    "training": TrainingSettings,
    "safety": SafetySettings,
    "tracking": TrackingSettings,
}

# What a preset decides where the user did not.
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"rank": 16, "target_modules": ("q_proj", "v_proj")},
    "balanced": {"rank": 32, "target_modules": ("all-linear",)},
    "quality": {"rank": 256, "target_modules": ("all-linear",)},
}
# Peak learning rate of each method with LoRA, where the user gave none.
LEARNING_RATES = {"sft": 2e-4, "dpo": 5e-6, "orpo": 8e-6, "simpo": 1e-6, "kto": 1e-6}
# Past this one a method is known to come apart with LoRA: a rate that the user gave is kept, and that is said.
HIGH_RATES = {"sft": 5e-3, "dpo": 1e-4, "orpo": 1e-4, "simpo": 1e-5, "kto": 5e-6}
TRACE_LENGTH = 8192  # tokens of an example with a reasoning trace, where the user gave no length
STEP_EXAMPLES = 16  # examples of an optimizer step, where neither batch size nor accumulation is given
STEPS = 100  # optimizer steps, where neither steps nor epochs are given
PARTS = 5  # evaluations, and checkpoints, of a run where nothing else is asked
CHUNK_LOGITS = 2**26  # numbers of a chunk of logits, 256 MB in fp32, where no chunk is given


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved settings of a run, and where each value came from."""

    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    method: MethodSettings = dataclasses.field(default_factory=MethodSettings)
    lora: LoraSettings = dataclasses.field(default_factory=LoraSettings)
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)
    safety: SafetySettings = dataclasses.field(default_factory=SafetySettings)
    tracking: TrackingSettings = dataclasses.field(default_factory=TrackingSettings)
    sources: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # "group.field" → default, file, .env, …

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The values as JSON-able data, by group and field."""
        return {
            group: {k.name: _plain(getattr(getattr(self, group), k.name)) for k in knobs(cls)}
            for group, cls in GROUPS.items()
        }

    def replace(self, source: str, **values: Any) -> Settings:
        """A copy with fields set by name, whatever their group, each noted with `source`."""
        by_group: dict[str, dict[str, Any]] = {}
        sources = dict(self.sources)
        for name, value in values.items():
            group = group_of(name)
            by_group.setdefault(group, {})[name] = value
            sources[f"{group}.{name}"] = source
        changed = {group: dataclasses.replace(getattr(self, group), **new) for group, new in by_group.items()}
        return dataclasses.replace(self, sources=sources, **changed)

    def given(self, name: str) -> bool:
        """Whether the user set this field (by file, environment, keyword or flag)."""
        return not self.sources.get(f"{group_of(name)}.{name}", "default").startswith("default")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    return list(value) if isinstance(value, tuple) else value


def group_of(name: str) -> str:
    """The group that holds the field `name`."""
    return _INDEX[name][0]


def knob_of(name: str) -> Knob:
    """The knob of the field `name`."""
    return _INDEX[name][1]


_INDEX: dict[str, tuple[str, Knob]] = {
    k.name: (group, k) for group, cls in GROUPS.items() for k in knobs(cls)
}
KEYWORDS: dict[str, str] = {
    alias: name for name, (_, k) in _INDEX.items() for alias in (name, *k.keywords)
}  # every keyword that Trainer and train accept → field
