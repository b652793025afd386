"""The fitting of an opened run by rewards of its own answers: the same model, watch and checkpoints, TRL's trainer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers
from datasets import Dataset
from trl import GRPOConfig, RLOOConfig

from bp_core.evaluation.rows import drawn, rows_of
from bp_core.generation.answers import LocalModel, end_ids
from bp_core.generation.prompts import Prompt
from bp_core.models.recompute import KEEP_INPUT, recompute
from bp_core.rewards.compose import RewardSet
from bp_core.rewards.presets import prompt_from
from bp_core.rewards.rows import sample_of
from bp_core.rl.drawing import use_vllm
from bp_core.rl.judged import asked_of, reward_functions, rewards_of
from bp_core.rl.pre_training import after_pre_training
from bp_core.rl.stall import Stall
from bp_core.rl.trainer import GroupTrainer, LeaveOneOutTrainer
from bp_core.settings.groups.generation import GenerationSettings
from bp_core.training.callbacks import Callback
from bp_core.training.decide import epoch_of
from bp_core.training.fit import Fitted
from bp_core.training.loop import arguments, evaluators, train, watched
from bp_core.training.open import Opened
from bp_core.training.trainable import trainable

REFERENCE = "ref"  # TRL's name of the adapter as it was at the start, beside the one that learns


def fit_by_rewards(opened: Opened, *, callbacks: Iterable[Callback] = ()) -> Fitted:
    """Train an opened run on answers that it draws itself.

    Args:
        opened: by `open_run` or `reopen_run`.
        callbacks: called between steps.

    Raises:
        BpError: `RUNTIME_…` where training cannot go on; `CONFIG_REWARD_INVALID`, `RUNTIME_REWARD_FAILED` and what
            else a reward raises.
    """
    rewards = rewards_of(opened.run.path, opened.settings.rl)
    if opened.settings.rl.pre_training_epochs:
        template = prompt_from(opened.prepared.record.get("prompt_template"))
        opened = after_pre_training(opened, template, callbacks=callbacks)
    settings, decided, prepared = opened.settings, opened.decided, opened.prepared
    transformers.set_seed(settings.training.seed)
    prompts = asked_of(prepared.train, prepared.train_examples)
    model, weights = trainable(opened)
    recompute(model, decided.recompute if decided.gradient_checkpointing else "none")
    model.generation_config.eos_token_id = sorted(
        {*opened.encoder.ends, *opened.encoder.stops, *end_ids(model)}
    )
    tokenizer = opened.encoder.tokenizer
    kind = LeaveOneOutTrainer if settings.method.method == "rloo" else GroupTrainer
    functions = reward_functions(rewards, prompts)
    with watched(opened, callbacks) as (watch, signals), _forward_kept(model):
        trainer = kind(
            prompts=prompts,
            weights=weights,
            watch=watch,
            epochs=opened.found.step // epoch_of(decided, prepared) if opened.found else 0,
            model=model,
            reward_funcs=functions,
            args=configuration(opened, rewards),
            train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
            processing_class=tokenizer,
        )
        trainer.remove_callback(transformers.PrinterCallback)

        def begin() -> None:
            watch.parts.append(Stall(lambda: trainer.metrics, rewards.range, watch.recorder.say))
            watch.evaluators += evaluators(opened, trainer.model, _heldout(opened, trainer.model, rewards))
            watch.start(trainer)

        train(trainer, opened, watch, signals, begin)
        if REFERENCE in model.peft_config:
            model.delete_adapter(REFERENCE)
    return Fitted(opened, trainer, watch)


def configuration(opened: Opened, rewards: RewardSet) -> Any:
    """TRL's configuration of a run."""
    d, settings, rl = opened.decided, opened.settings, opened.settings.rl
    given: dict[str, Any] = {
        **arguments(opened),
        "per_device_train_batch_size": d.batch_size,
        "gradient_accumulation_steps": d.gradient_accumulation,
        "bf16": opened.device.autocast is torch.bfloat16,
        "gradient_checkpointing": False,  # set on the model, as for every method
        "gradient_checkpointing_kwargs": KEEP_INPUT,
        "num_generations": rl.group_size,
        "max_completion_length": rl.max_completion_length,
        "temperature": rl.temperature,
        "top_p": rl.top_p,
        "beta": rl.kl_beta,
        "epsilon": rl.clip_low,
        "epsilon_high": rl.clip_high,
        "num_iterations": rl.num_iterations,
        "reward_weights": [c.weight for c in rewards.components],
    }
    if use_vllm(settings, opened.device):
        longest = int(opened.prepared.train.lengths.max()) + rl.max_completion_length
        given |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": longest}
    if settings.method.method == "rloo":
        return RLOOConfig(**given)
    given |= {"importance_sampling_level": rl.importance_level, "loss_type": rl.grpo_loss}
    return GRPOConfig(**given)


def _heldout(opened: Opened, model: Any, rewards: RewardSet) -> Callable[[], Mapping[str, float]] | None:
    """Mean reward of greedy answers to held-out prompts, with that of each component; None where none are held out."""
    settings, t = opened.settings, opened.settings.training
    rows = drawn(
        [row for row in rows_of(opened.prepared.heldout_examples) if row.turns], t.eval_answers, t.seed
    )
    if not rows:
        return None
    questions = [Prompt(row.turns, row.tools, row.id) for row in rows]
    samples = [sample_of(row.example) for row in rows]
    how = GenerationSettings(
        max_new_tokens=settings.rl.max_completion_length, batch_size=opened.decided.batch_size
    )

    def measure() -> Mapping[str, float]:
        found = LocalModel(model, opened.encoder).answer(questions, how)
        scores = rewards.score(
            [dataclasses.replace(s, completion=a.text) for s, (a,) in zip(samples, found, strict=True)]
        )
        values = {"reward": math.fsum(s.total for s in scores) / len(scores)}
        for c in rewards.components:
            known = [v for s in scores if (v := s.components[c.name]) is not None]
            if known:
                values[f"reward_{c.name}"] = math.fsum(known) / len(known)
        return values

    return measure


@contextlib.contextmanager
def _forward_kept(model: Any) -> Iterator[None]:
    """TRL puts a forward pass of its own on the base model; the model has its own again afterwards."""
    base = model.get_base_model()
    before = base.__dict__.get("forward")
    try:
        yield
    finally:
        base.__dict__.pop("forward", None)
        if before is not None:
            base.forward = before
