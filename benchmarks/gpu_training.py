"""Tokens per second and peak memory of LoRA training on one GPU, against TRL's SFTTrainer and Unsloth.

Goals: at least 1.3 times TRL, no slower than Unsloth, less memory than both.

    python benchmarks/gpu_training.py                                   # every shape that fits, every peer that installs
    python benchmarks/gpu_training.py --shape qwen2.5-0.5b --way bp-core --way trl
    python benchmarks/gpu_training.py --device cpu --shape toy --steps 4     # that it works, no more

- The shape of a real model, random bf16 weights, LoRA rank 16 on all linear layers, the same batches in the same
  order for all. Every way runs in a process of its own; a peer that is not installed is told.
- The clock runs from the end of the second step to the end of the last, the card synchronised at both.
- Memory is torch's peak of allocated bytes on the card; on a CPU the peak of the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from bp_core import Callback, Trainer
from bp_core.models.adapters import add_adapter
from bp_core.models.load import load_model
from bp_core.settings.resolve import resolve
from bp_core.support.environment import peak_memory
from bp_core.tiny import path as tiny
from bp_core.training.batch import collate
from bp_core.training.decide import plan_of
from bp_core.training.inputs import read_inputs
from bp_data.example import Example, Turn

WARM_UP = 2  # steps before the clock starts
# hidden, layers, heads, key-value heads, feed-forward, vocabulary, tied embeddings
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "toy": (64, 2, 2, 1, 128, 2048, True),
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "llama-3.2-1b": (2048, 16, 32, 8, 8192, 128256, True),
    "qwen2.5-3b": (2048, 36, 16, 2, 11008, 151936, True),
    "llama-3.1-8b": (4096, 32, 32, 8, 14336, 128256, False),
}
WAYS = ("bp-core", "bp-core, checkpointing", "trl", "trl, liger", "trl, checkpointing", "unsloth")


def make_model(shape: str, folder: Path, dtype: torch.dtype) -> float:
    """A model of random weights with tiny's tokenizer; returns its size in billions."""
    hidden, layers, heads, kv, ff, vocabulary, tied = SHAPES[shape]
    llama = shape.startswith("llama")
    config = (transformers.LlamaConfig if llama else transformers.Qwen2Config)(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=ff,
        tie_word_embeddings=tied,
        max_position_embeddings=8192,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters()) / 1e9


def rows(count: int, tokens: int) -> list[Example]:
    """Chats whose length varies by a third around `tokens`, most of them the answer's."""
    rng = random.Random(0)
    words = "the model returns a list of names and values for each file in the given path or raises".split()  # noqa: SIM905
    text = lambda n: " ".join(rng.choice(words) for _ in range(n))  # noqa: E731
    made = []
    for i in range(count):
        length = int(rng.uniform(0.66, 1.0) * tokens * 0.6)
        turns = (Turn("user", text(length // 8)), Turn("assistant", text(length - length // 8)))
        made.append(Example(f"x:{i}", "x", i, "chat", turns))
    return made


def settings_of(args: argparse.Namespace, folder: Path, checkpointing: bool) -> dict[str, Any]:
    return {
        "model": str(folder),
        "output": args.folder / "out",
        "steps": args.steps,
        "batch_size": args.batch,
        "gradient_accumulation": 1,
        "rank": 16,
        "alpha": 32,
        "dropout": 0.0,
        "target_modules": ("all-linear",),
        "max_seq_length": 8192,
        "heldout_ratio": 0.0,
        "eval_steps": 0,
        "save_steps": 0,
        "preview": 0,
        "preflight": False,
        "lr": 1e-4,
        "optim": "adamw_torch",
        "scheduler": "constant",
        "gradient_checkpointing": checkpointing,
        "allow_cpu": True,
    }


class Clock:
    """Times of the ends of steps, the device synchronised at the two that count."""

    def __init__(self, steps: int) -> None:
        self.steps, self.at, self.done = steps, {}, 0

    def tick(self) -> None:
        self.done += 1
        if self.done in (WARM_UP, self.steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.at[self.done] = time.perf_counter()

    def figures(self, tokens: list[int]) -> dict[str, float]:
        seconds = self.at[self.steps] - self.at[WARM_UP]
        cuda = torch.cuda.is_available()
        return {
            "tokens_per_second": sum(tokens[WARM_UP : self.steps]) / seconds,
            "peak_bytes": peak_memory(cuda=cuda),
        }


def batches_of(settings: Any, data: list[Example]) -> list[Any]:
    """The micro-batches that bp-core makes of `data`, in its order."""
    inputs = read_inputs(settings, sources=data, tell=lambda _: None)
    plan = plan_of(inputs.decided, inputs.prepared)
    steps = [s for e in range(99) for s in plan.epoch(e)][: inputs.decided.steps]
    return [collate([inputs.prepared.train.unit(int(i)) for i in step], 0) for step in steps]


def ours(
    args: argparse.Namespace, folder: Path, data: list[Example], checkpointing: bool
) -> dict[str, float]:
    clock = Clock(args.steps)

    class Tick(Callback):
        def on_step(self, info: Any) -> None:
            clock.tick()

    given = settings_of(args, folder, checkpointing)
    Trainer(tell=lambda _: None, callbacks=[Tick()], **given).train(data)
    settings = resolve(given)
    return clock.figures([b.tokens for b in batches_of(settings, data)])


def trl(
    args: argparse.Namespace,
    folder: Path,
    data: list[Example],
    *,
    liger: bool,
    checkpointing: bool,
    unsloth: bool,
) -> dict[str, float]:
    if unsloth:
        from unsloth import FastLanguageModel  # patches transformers, and so comes first
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = resolve(settings_of(args, folder, checkpointing))
    batches = batches_of(settings, data)
    cuda = torch.cuda.is_available()
    if unsloth:
        model, _ = FastLanguageModel.from_pretrained(
            str(folder), max_seq_length=8192, load_in_4bit=False, dtype=torch.bfloat16
        )
        projections = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = FastLanguageModel.get_peft_model(
            model,
            r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules=projections,
            use_gradient_checkpointing="unsloth",
        )
    else:
        inputs = read_inputs(settings, sources=data, tell=lambda _: None)
        model = add_adapter(load_model(folder, settings, inputs.device), inputs.decided)
    listed = []
    for b in batches:
        labels = torch.full_like(b.input_ids, -100).flatten()
        labels[b.where + 1] = b.targets
        pairs = zip(b.input_ids, labels.view_as(b.input_ids), strict=True)
        listed += [{"input_ids": ids.tolist(), "labels": own.tolist()} for ids, own in pairs]
    config = SFTConfig(
        output_dir=str(args.folder / "peer"),
        per_device_train_batch_size=args.batch,
        max_steps=len(batches),
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_grad_norm=1.0,
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=checkpointing,
        use_liger_kernel=liger,
        max_length=None,
        packing=False,
    )
    clock = Clock(args.steps)

    class Tick(transformers.TrainerCallback):
        def on_step_end(self, *a: Any, **k: Any) -> None:
            clock.tick()

    dataset = Dataset.from_list(listed)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=dataset,
        callbacks=[Tick()],
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(dataset)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return clock.figures([b.tokens for b in batches])


def missing(way: str) -> str:
    """Why a way cannot run here; "" where it can."""
    for name, package in (("liger", "liger_kernel"), ("unsloth", "unsloth"), ("trl", "trl")):
        if name in way and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if ("liger" in way or "unsloth" in way) and not torch.cuda.is_available():
        return "needs a CUDA card"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="length of the longest rows, about")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps <= WARM_UP:
        raise SystemExit(f"--steps must be more than {WARM_UP}")
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA card here; --device cpu --shape toy tries the script itself")
    if args.job:
        way, folder = args.job[0], Path(args.job[1])
        data, checkpointing = rows(args.batch * args.steps, args.tokens), "checkpointing" in way
        if way.startswith("bp-core"):
            told = ours(args, folder, data, checkpointing)
        else:
            flags = {"liger": "liger" in way, "checkpointing": checkpointing, "unsloth": way == "unsloth"}
            told = trl(args, folder, data, **flags)
        print(json.dumps(told))
        return
    table = []
    for shape in args.shape or [s for s in SHAPES if s != "toy"]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            size = make_model(shape, folder, torch.bfloat16 if args.device == "cuda" else torch.float32)
            figures: dict[str, list[dict[str, float]]] = {}
            why = {way: missing(way) for way in args.way or WAYS}
            for _ in range(args.repeat):
                for way in [w for w, reason in why.items() if not reason]:
                    command = [sys.executable, __file__, "--job", way, str(folder), "--device", args.device]
                    for name in ("steps", "batch", "tokens"):
                        command += [f"--{name}", str(getattr(args, name))]
                    command += ["--folder", temporary]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        why[way] = (done.stderr.strip().splitlines() or ["failed"])[-1][:160]
                        figures.pop(way, None)
                        continue
                    figures.setdefault(way, []).append(json.loads(done.stdout.splitlines()[-1]))
        for way, reason in why.items():
            row: dict[str, Any] = {"shape": shape, "billions": round(size, 2), "way": way}
            if way not in figures:
                table.append({**row, "not_run": reason})
                continue
            rate = statistics.median(f["tokens_per_second"] for f in figures[way])
            peak = statistics.median(f["peak_bytes"] for f in figures[way])
            row |= {"tokens_per_second": round(rate), "peak_gb": round(peak / 1e9, 2)}
            if "bp-core" in figures:
                pairs = zip(figures["bp-core"], figures[way], strict=False)
                ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs]
                row["bp_core_over_this"] = round(statistics.median(ratios), 2)
            table.append(row)
    if args.json:
        print(json.dumps(table))
        return
    print(f"{'shape':14} {'way':24} {'tokens/s':>9} {'peak GB':>8} {'bp-core / this':>15}")
    for row in table:
        head = f"{row['shape']:14} {row['way']:24}"
        if "not_run" in row:
            print(f"{head} {row['not_run']}")
        else:
            ratio = row.get("bp_core_over_this", "")
            print(f"{head} {row['tokens_per_second']:>9,} {row['peak_gb']:>8} {ratio:>15}")


if __name__ == "__main__":
    main()
