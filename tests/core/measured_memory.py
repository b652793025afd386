"""A run's step on a small random model, and the most that torch's allocator held meanwhile."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bp_core import tiny
from bp_core.encoding.encode import Encoded
from bp_core.encoding.steps import StepPlan
from bp_core.encoding.tokens import Tokens
from bp_core.memory.workload import Workload
from bp_core.models.adapters import add_adapter
from bp_core.models.load import load_tokenizer
from bp_core.models.recompute import recompute
from bp_core.models.weights import AdapterWeights
from bp_core.rewards.sample import Sample
from bp_core.rl.judged import Asked
from bp_core.rl.trainer import GroupTrainer
from bp_core.settings.resolve import resolve
from bp_core.settings.tables import RL_METHODS
from bp_core.training.batch import StepData
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.choose import objective_of
from bp_core.training.ranks import Ranks
from bp_core.training.step import StepTrainer
from datasets import Dataset
from settled import settled
from torch.profiler import ProfilerActivity, profile
from trl import GRPOConfig


class Unwatched:
    """A watch that lets everything pass."""

    preflight = False

    def before_update(self, *_: Any) -> None: ...

    def after_step(self, *_: Any) -> None: ...


def random_model(config: dict[str, Any], load: Workload, device: str = "cpu") -> Any:
    """A model of that configuration, frozen, in the workload's number format."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if load.weight_bytes == 2 else torch.float32
    kind, sizes = config["model_type"], {k: v for k, v in config.items() if k != "model_type"}
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(kind, **sizes), dtype=dtype
        )
    model.config.use_cache = False
    return model.requires_grad_(False)


def trainer(config: dict[str, Any], load: Workload, folder: Path, device: str = "cpu") -> StepTrainer:
    """Two optimizer steps of the workload, every token but the first of each piece a label."""
    settings = resolve({"model": "tiny", "method": load.method, "use_dora": load.dora})
    decided = dataclasses.replace(
        settled(settings), rank=load.rank, alpha=float(load.rank), target_modules=load.targets
    )
    model = random_model(config, load, device)
    model = model.requires_grad_(True) if load.mode == "full" else add_adapter(model, decided)
    recompute(model, "layers" if load.checkpointing else "none")
    half = torch.bfloat16 if load.half else None
    loss = LanguageLoss(model, chunk=load.loss_chunk, device=torch.device(device), autocast=half)
    objective, units = objective_of(settings), load.batch * load.accumulation
    draw = np.random.default_rng(0)

    def piece(name: str) -> Encoded:
        ids = tuple(int(i) for i in draw.integers(0, config["vocab_size"], load.length))
        return Encoded(ids, bytes([0] + [1] * (load.length - 1)), name)

    tokens = Tokens.of(
        [tuple(piece(f"row {i}") for _ in range(objective.width)) for i in range(2 * units)],
        width=objective.width,
    )
    if objective.reference:
        tokens = tokens.with_column("reference", np.full(tokens.pieces, -500.0, np.float32))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=2, optim=load.optim, use_cpu=device == "cpu",
        report_to="none", logging_strategy="no", save_strategy="no", eval_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, log_level="error",
    )  # fmt: skip
    data = StepData(tokens, StepPlan(tokens.lengths, units, 0, True, tokens.source, None), 2)
    return StepTrainer(
        model, arguments, data, objective=objective, forward=loss, weights=AdapterWeights(), pad_id=0,
        micro=load.batch, packed=0, oom_recovery=False, buckets=False, ranks=Ranks(), watch=Unwatched(),
    )  # fmt: skip


def rl_trainer(config: dict[str, Any], load: Workload, folder: Path) -> GroupTrainer:
    """Two steps of groups of four answers, as long as they may be but for one in thousands of tokens that ends."""
    decided = dataclasses.replace(
        settled(resolve({"model": "tiny", "method": load.method})),
        rank=load.rank,
        alpha=float(load.rank),
        target_modules=load.targets,
    )
    model = add_adapter(random_model(config, load), decided)
    recompute(model, "layers" if load.checkpointing else "none")
    model.generation_config.eos_token_id = [config["vocab_size"] - 1]
    draw = np.random.default_rng(0)
    prompts = {
        str(i): Asked(tuple(draw.integers(4, config["vocab_size"], load.length).tolist()), Sample(""))
        for i in range(8)
    }
    arguments = GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=load.batch, gradient_accumulation_steps=load.accumulation,
        num_generations=4, max_completion_length=load.completion, beta=0.05, max_steps=2, optim=load.optim, use_cpu=True,
        bf16=load.half, gradient_checkpointing=False, report_to="none", logging_strategy="no", save_strategy="no",
        disable_tqdm=True, log_level="error",
    )  # fmt: skip
    return GroupTrainer(
        prompts=prompts, weights=AdapterWeights.of(model), watch=Unwatched(), epochs=0, model=model,
        reward_funcs=[lambda completions, **_: [float(len(c) % 7) for c in completions]], args=arguments,
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}), processing_class=load_tokenizer(tiny.path(), resolve({"model": "tiny"})),
    )  # fmt: skip


def held(model: Any) -> int:
    """Bytes of parameters and buffers, each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def measured_peak(config: dict[str, Any], load: Workload, folder: Path) -> int:
    """Bytes: the running sum of the CPU allocator's events over two steps, on top of what the model held before."""
    made = (rl_trainer if load.method in RL_METHODS else trainer)(config, load, folder)
    before = held(made.model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        made.train()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    live = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return before + int(live.max())
