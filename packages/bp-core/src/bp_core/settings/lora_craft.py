"""A configuration of LoRA Craft as settings of ours.

- One table says what each of its keys is here; a key of no row, and a value that ours refuses, is told by name with what
  to do instead. Nothing is dropped in silence.
- A key whose value is null says «as by default» there and here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bp_merge.common import BpError

from bp_core.settings.knobs import KEYWORDS, group_of
from bp_core.settings.resolve import by_group

# GROUP.KEY of theirs → keyword of ours
NAMES = {
    "model.name": "model", "model.lora_rank": "rank", "model.lora_alpha": "alpha", "model.lora_dropout": "dropout",
    "dataset.max_samples": "samples",
    "training.num_epochs": "epochs", "training.batch_size": "batch_size",
    "training.gradient_accumulation_steps": "gradient_accumulation", "training.learning_rate": "learning_rate",
    "training.lr_scheduler_type": "scheduler", "training.warmup_steps": "warmup_steps",
    "training.weight_decay": "weight_decay", "training.max_grad_norm": "max_grad_norm", "training.optim": "optim",
    "training.max_sequence_length": "max_seq_length", "training.max_new_tokens": "max_completion_length",
    "training.temperature": "temperature", "training.top_p": "top_p", "training.seed": "seed",
    "training.max_steps": "steps",
    "grpo.kl_penalty": "kl_beta", "grpo.clip_range": "clip_low",
    "grpo.importance_sampling_level": "importance_level", "reward.preset_name": "rewards",
    "pre_training.epochs": "pre_training_epochs", "pre_training.max_samples": "pre_training_samples",
    "pre_training.learning_rate": "pre_training_learning_rate",
}  # fmt: skip
# Data sets of several configurations, and the one that is meant there.
CONFIGURED = {"openai/gsm8k": "openai/gsm8k/main", "gsm8k": "openai/gsm8k/main"}
ELSEWHERE = {
    "name": "is the file's name here: backprop config import FILE.json --file NAME.toml",
    "training.max_new_tokens": "is told when an answer is asked for: backprop generate --max-new-tokens",
    "training.temperature": "is told when an answer is asked for: backprop generate --temperature",
    "training.top_p": "is told when an answer is asked for: backprop generate --top-p",
}
_REWARD = "see what answers are worth: backprop reward list, backprop reward test"


class Translated(NamedTuple):
    """Settings by keyword, and what could not be carried: their key → why, and what stands for it."""

    settings: dict[str, Any]
    left: dict[str, str]


def translate(config: Mapping[str, Any]) -> Translated:
    """Our settings of a configuration; a flat one is taken as ours.

    >>> translate({"model": {"name": "tiny", "lora_rank": 8}, "dataset": {"source": "a.jsonl", "instruction_field": "q",
    ...     "response_field": "a"}, "training": {"flash": 1}})
    Translated(settings={'model': 'tiny', 'rank': 8, 'data': 'a.jsonl', 'map': 'q=prompt,a=completion'}, left={'training.flash': 'no setting of LoRA Craft that is known here'})

    Args:
        config: as LoRA Craft writes it: values by group.
    """
    settings: dict[str, Any] = {}
    left: dict[str, str] = {}
    learns = isinstance(config.get("grpo"), Mapping) or isinstance(config.get("reward"), Mapping)
    flat = {path: value for path, value in _flat(config) if value is not None}
    if learns and "rewards" in KEYWORDS:
        settings["method"] = "grpo"
    if flat.pop("pre_training.enabled", False):
        flat.setdefault("pre_training.epochs", 1)
    else:  # its other keys say nothing then
        flat = {path: value for path, value in flat.items() if not path.startswith("pre_training.")}
    for path, value in flat.items():
        if path.startswith("dataset.") and path not in NAMES:
            continue
        name = NAMES.get(path, path if "." not in path else "")
        if path == "reward.type":
            if value != "preset":
                left[path] = f"{value}: its parts are written in a file of rewards; {_REWARD}"
        elif path in ELSEWHERE and (not learns or name not in KEYWORDS):
            left[path] = ELSEWHERE[path]
        elif name not in KEYWORDS:
            left[path] = (
                f"there is no {name} here" if path in NAMES else "no setting of LoRA Craft that is known here"
            )
        elif refusal := _refused(name, value):
            left[path] = refusal
        else:
            settings[name] = value
    _dataset(flat, settings, left)
    return Translated(settings, left)


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", v) for inner, v in value.items())
        else:
            yield key, value


def _refused(name: str, value: Any) -> str:
    """Why our setting does not take a value, "" where it does."""
    field = KEYWORDS[name]
    try:
        by_group({group_of(field): {field: value}}, "")
    except BpError as error:
        return f"{error.message.partition(' ')[2]}; {error.hint}"
    return ""


def _dataset(flat: Mapping[str, Any], settings: dict[str, Any], left: dict[str, str]) -> None:
    """`source` with its `split`, and the two fields as a map."""
    told = {k.partition(".")[2]: v for k, v in flat.items() if k.startswith("dataset.") and k not in NAMES}
    source, split = told.pop("source", None), told.pop("split", None)
    if isinstance(source, str):
        on_hub = source in CONFIGURED or (source.count("/") == 1 and "." not in source)
        settings["data"] = f"hf:{CONFIGURED.get(source, source)}" if on_hub else source
        if isinstance(split, str) and on_hub:
            settings["data"] += f":{split}"
        elif split is not None and split != "train":
            left["dataset.split"] = "a file has no splits: name the file that holds that part"
    elif source is not None:
        left["dataset.source"] = "must be text: a file, or OWNER/NAME of the Hub"
    prompt, answer = told.pop("instruction_field", None), told.pop("response_field", None)
    if isinstance(prompt, str) and isinstance(answer, str):
        settings["map"] = f"{prompt}=prompt,{answer}=completion"
    elif prompt is not None or answer is not None:
        left["dataset.instruction_field"] = "a map names both fields: --map FIELD=prompt,FIELD=completion"
    left.update(dict.fromkeys((f"dataset.{k}" for k in told), "no setting of LoRA Craft that is known here"))


__all__ = ["Translated", "translate"]
