"""Tokens per second of a training step against a hand-written torch loop, plain transformers.Trainer and TRL's SFTTrainer.

Claim: at least 0.95 of the hand loop on the same batches of a 20-100 M parameter model.

    python benchmarks/step_overhead.py --steps 12 --repeat 5

The same model (random weights), adapter, batches, optimizer and schedule for all; each takes its turn in every
repetition, and the ratio is taken within the repetition. «same loss» computes the output head at labelled positions
only, as bp-core does; «full logits» at every position, as most loops do.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
warnings.simplefilter("ignore")

import torch
import torch.nn.functional as F
import transformers
from bp_core import Trainer
from bp_core.models.adapters import add_adapter
from bp_core.models.device import choose_device
from bp_core.models.load import load_model
from bp_core.settings.knobs import Settings
from bp_core.settings.resolve import resolve
from bp_core.tiny import path as tiny
from bp_core.training.batch import collate
from bp_core.training.cross_entropy import full_cross_entropy
from bp_core.training.decide import plan_of
from bp_core.training.inputs import read_inputs
from bp_data.example import Example, Turn
from bp_export.adapter.base import resolve_base


def make_model(folder: Path) -> int:
    """A random Qwen3 of about 40 M parameters with tiny's tokenizer; returns its size."""
    config = transformers.Qwen3Config(
        vocab_size=16384,
        hidden_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        intermediate_size=1536,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def examples(count: int) -> list[Example]:
    """Chats of 60 to 160 tokens, most of them the answer's."""
    rng = random.Random(0)
    words = [
        "the",
        "model",
        "returns",
        "a",
        "list",
        "of",
        "names",
        "and",
        "values",
        "for",
        "each",
        "file",
        "in",
        "the",
        "given",
        "path",
        "or",
        "raises",
        "an",
        "error",
    ]
    text = lambda n: " ".join(rng.choice(words) for _ in range(n))  # noqa: E731
    return [
        Example(
            f"x:{i}",
            "x",
            i,
            "chat",
            (Turn("user", text(rng.randint(5, 15))), Turn("assistant", text(rng.randint(30, 80)))),
        )
        for i in range(count)
    ]


def settings_of(folder: Path, output: Path, steps: int) -> Settings:
    return resolve(
        {
            "model": str(folder),
            "output": output,
            "steps": steps,
            "batch_size": 8,
            "gradient_accumulation": 1,
            "rank": 16,
            "alpha": 32,
            "target_modules": ("all-linear",),
            "heldout_ratio": 0.0,
            "eval_steps": 0,
            "save_steps": 0,
            "preview": 0,
            "preflight": False,
            "lr": 1e-4,
            "optim": "adamw_torch",
            "scheduler": "cosine",
        }
    )


def ours(settings: Settings, rows: list[Example]) -> float:
    given = {
        n: getattr(getattr(settings, g), n)
        for g in ("data", "training", "safety", "lora")
        for n in vars(getattr(settings, g))
        if settings.given(n)
    }
    trainer = Trainer(settings.model.model, output=settings.tracking.output, tell=lambda _: None, **given)
    return trainer.train(rows).tokens_per_second


def hand_loop(settings: Settings, rows: list[Example], same_loss: bool) -> float:
    """What one would write by hand: no logging, no guard, no checkpoint."""
    model, batches = _model_and_batches(settings, rows)
    base = model.get_base_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / len(batches)))
    )
    model.train()
    tokens, began = 0, time.perf_counter()
    for batch in batches:
        if same_loss:
            hidden = base.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
            picked = hidden.flatten(0, 1)[batch.where]
            loss = full_cross_entropy(picked, base.get_output_embeddings().weight, batch.targets) / len(
                batch.where
            )
        else:
            logits = model(input_ids=batch.input_ids, use_cache=False).logits
            labels = torch.full_like(batch.input_ids, -100).flatten()
            labels[batch.where + 1] = batch.targets
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels.view_as(batch.input_ids)[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        tokens += batch.tokens
    return tokens / (time.perf_counter() - began)


def _model_and_batches(settings: Settings, rows: list[Example]):
    base = resolve_base(settings.model.model)
    inputs = read_inputs(settings, base, choose_device(settings), sources=rows, tell=lambda _: None)
    decided, prepared = inputs.decided, inputs.prepared
    plan = plan_of(decided, prepared)
    steps = [s for e in range(99) for s in plan.epoch(e)][: decided.steps]
    model = add_adapter(load_model(inputs.folder, settings, inputs.device), decided)
    return model, [collate([prepared.train.unit(int(i)) for i in step], 0) for step in steps]


class _Rows(torch.utils.data.Dataset):
    def __init__(self, batches) -> None:
        self.rows = []
        for b in batches:
            labels = torch.full_like(b.input_ids, -100).flatten()
            labels[b.where + 1] = b.targets
            for ids, own in zip(b.input_ids, labels.view_as(b.input_ids), strict=True):
                self.rows.append({"input_ids": ids, "labels": own, "attention_mask": torch.ones_like(ids)})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        return self.rows[i]


def _collate(rows):
    return {k: torch.stack([r[k] for r in rows]) for k in rows[0]}


def transformers_trainer(settings: Settings, rows: list[Example], trl: bool) -> float:
    model, batches = _model_and_batches(settings, rows)
    common = {
        "output_dir": str(settings.tracking.output / "peer"),
        "per_device_train_batch_size": 8,
        "max_steps": len(batches),
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "max_grad_norm": 1.0,
    }
    data = _Rows(batches)
    clock: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_train_begin(self, *a, **k):
            clock.append(time.perf_counter())

        def on_train_end(self, *a, **k):
            clock.append(time.perf_counter())

    if trl:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        listed = Dataset.from_list(
            [{"input_ids": r["input_ids"].tolist(), "labels": r["labels"].tolist()} for r in data.rows]
        )
        common.pop("remove_unused_columns")
        args = SFTConfig(**common, bf16=False, gradient_checkpointing=False, max_length=None, packing=False)
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=listed,
            callbacks=[Clock()],
            processing_class=transformers.AutoTokenizer.from_pretrained(settings.model.model),
        )
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(listed)
    else:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(**common),
            train_dataset=data,
            data_collator=_collate,
            callbacks=[Clock()],
        )
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return sum(b.tokens for b in batches) / (clock[1] - clock[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    rows = examples(256)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        size = make_model(folder)
        settings = settings_of(folder, Path(temporary) / "out", args.steps)
        ways = {
            "bp-core": lambda: ours(settings, rows),
            "hand loop, same loss": lambda: hand_loop(settings, rows, True),
            "hand loop, full logits": lambda: hand_loop(settings, rows, False),
            "transformers.Trainer": lambda: transformers_trainer(settings, rows, False),
            "trl.SFTTrainer": lambda: transformers_trainer(settings, rows, True),
        }
        figures: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # warm-up
        for _ in range(args.repeat):
            for name, way in ways.items():
                figures[name].append(way())
    print(
        f"{size / 1e6:.0f} M parameters, LoRA r16 on all linear layers, 8 chats of 60-160 tokens a step, {args.steps} steps"
    )
    print(f"{'':24}  tokens/s (median)   bp-core / this (median of ratios, min-max)")
    for name, values in figures.items():
        ratios = sorted(a / b for a, b in zip(figures["bp-core"], values, strict=True))
        print(
            f"{name:24}  {statistics.median(values):10,.0f}          {statistics.median(ratios):.2f}  ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
