"""Tokens per second, peak memory and idle share of training on one GPU, against TRL's SFTTrainer and Unsloth.

Goals: at least 1.3 times TRL and TRL with liger; no slower than Unsloth, in no more memory; with and without checkpointing.

    python benchmarks/gpu_training.py                                   # every shape that fits, every peer that installs
    python benchmarks/gpu_training.py --shape llama-3.2-1b --way bp-core --way trl
    python benchmarks/gpu_training.py --device cpu --shape toy --steps 4     # that it works, no more

- The shape of a real model, random bf16 weights made on the card, LoRA rank 16 on all linear layers, the same batches in
  the same order for all. Every way runs in a process of its own with a deadline; a peer that is not installed is told.
- Steps before the clock: at least 3, until two in a row take the same time to a tenth (kernels are compiled by then), at
  most 15. Then 40 steps, 12 of a shape above 4 billion, without a synchronisation between them.
- Like is paired with like: checkpointing with checkpointing (Unsloth always does), 4-bit with 4-bit, DPO with DPO.
- MFU is the arithmetic of the model (2 operations a weight forward, 2 backward as the base is frozen, 4 where all of it is
  trained, and attention's; what checkpointing does again is not counted) over the card's own rate in a large product.
- The idle share and the costliest kernels are of 3 steps more, under torch's profiler.
- Memory is torch's peak of allocated bytes on the card; on a CPU the peak of the process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
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
from bp_core.models.device import choose_device
from bp_core.settings.knobs import KEYWORDS
from bp_core.settings.resolve import resolve
from bp_core.support.environment import peak_memory
from bp_core.tiny import path as tiny
from bp_core.training.decide import plan_of
from bp_core.training.inputs import read_inputs
from bp_data.example import Example, Turn
from bp_export.adapter.base import resolve_base
from peft import LoraConfig, get_peft_model

LEAST, MOST = 3, 15  # steps before the clock starts
PROFILED = 3  # steps after it stops
# hidden, layers, heads, key-value heads, feed-forward, vocabulary, tied embeddings
SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    "toy": (64, 2, 2, 1, 128, 2048, True),
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "llama-3.2-1b": (2048, 16, 32, 8, 8192, 128256, True),
    "qwen2.5-3b": (2048, 36, 16, 2, 11008, 151936, True),
    "llama-3.1-8b": (4096, 32, 32, 8, 14336, 128256, False),
}
# way → settings of bp-core that make it; what a version does not know is told, not run
CHECKPOINTED = {"gradient_checkpointing": True}
BASE: dict[str, dict[str, Any]] = {
    "bp-core": {},
    "bp-core, compiled": {"compile": True},
    "bp-core, checkpointing": CHECKPOINTED,
    "bp-core, 4-bit": {"load_in_4bit": True, **CHECKPOINTED},
    "bp-core, full": {"mode": "full", **CHECKPOINTED},
    "bp-core, dpo": {"method": "dpo", **CHECKPOINTED},
}
# peer → the way of bp-core that it is held against
PEERS = {
    "trl": "bp-core",
    "trl, liger": "bp-core",
    "trl, checkpointing": "bp-core, checkpointing",
    "trl, liger, checkpointing": "bp-core, checkpointing",
    "trl, full": "bp-core, full",
    "trl, dpo": "bp-core, dpo",
    "unsloth": "bp-core, checkpointing",
    "unsloth, 4-bit": "bp-core, 4-bit",
}
WAYS = (*BASE, *PEERS)
DEFAULT = ("bp-core", "bp-core, checkpointing", "trl", "trl, liger", "trl, liger, checkpointing", "unsloth")


def make_model(shape: str, folder: Path, device: str) -> float:
    """A model of random weights with tiny's tokenizer, made on the device; returns its size in billions."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
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
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters()) / 1e9


def rows(count: int, tokens: int, *, pairs: bool = False) -> list[Example]:
    """Chats whose length varies by a third below `tokens`, most of them the answer's; or pairs of two answers."""
    rng = random.Random(0)
    words = "the model returns a list of names and values for each file in the given path or raises".split()  # noqa: SIM905
    text = lambda n: " ".join(rng.choice(words) for _ in range(n))  # noqa: E731
    made = []
    for i in range(count):
        length = int(rng.uniform(0.66, 1.0) * tokens * 0.6)
        asked, answer = (Turn("user", text(length // 8)),), length - length // 8
        if pairs:
            wanted, other = (Turn("assistant", text(answer)),), (Turn("assistant", text(answer)),)
            made.append(Example(f"x:{i}", "x", i, "preference", asked, wanted, other))
        else:
            made.append(Example(f"x:{i}", "x", i, "chat", (*asked, Turn("assistant", text(answer)))))
    return made


def settings_of(args: argparse.Namespace, folder: Path, way: str) -> dict[str, Any]:
    known = {**BASE.get(way, {})} if way in BASE else {**BASE[PEERS[way]]}
    given = {
        "model": str(folder),
        "output": args.folder / "out",
        "steps": MOST + args.steps + PROFILED,
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
        "scheduler": "constant",
        "gradient_checkpointing": False,
        "allow_cpu": True,
        **known,
    }
    if known.get("mode") == "full":
        given = {k: v for k, v in given.items() if k not in ("rank", "alpha", "dropout", "target_modules")}
    return given


class Clock:
    """Ends of steps: warm-up until two take the same time, the measured ones, then the profiled; and the process ends.

    Args:
        steps: that are measured.
        tokens: of each step, in order.
        arithmetic: operations of one token.
        rate: the device's own, operations a second.
    """

    def __init__(self, steps: int, tokens: list[int], arithmetic: float, rate: float) -> None:
        self.steps, self.tokens, self.arithmetic, self.rate = steps, tokens, arithmetic, rate
        self.done, self.first, self.last = 0, 0, time.perf_counter()
        self.took: list[float] = []
        self.began = self.last
        self.profiler: Any = None

    def tick(self) -> None:
        self.done += 1
        if not self.first:
            self._warm()
        elif self.done == self.first + self.steps:
            self._told()
            self._profile()
        elif self.profiler is not None and self.done == self.first + self.steps + PROFILED:
            self._kernels()
            sys.stdout.flush()
            os._exit(0)  # figures are all that this process is for

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _warm(self) -> None:
        now = self._now()
        # seconds a token: steps differ in length
        self.took.append((now - self.last) / self.tokens[self.done - 1])
        self.last = now
        steady = len(self.took) >= LEAST and abs(self.took[-1] / self.took[-2] - 1) < 0.1
        if steady or self.done == MOST:
            self.first, self.began = self.done, now

    def _told(self) -> None:
        seconds = self._now() - self.began
        cuda = torch.cuda.is_available()
        rate = sum(self.tokens[self.first : self.done]) / seconds
        figures = {
            "device": torch.cuda.get_device_name(0) if cuda else "CPU",
            "tokens_per_second": rate,
            "peak_bytes": peak_memory(cuda=cuda),
            "mfu": rate * self.arithmetic / self.rate,
            "warm_up": self.first,
            "measured": self.steps,
        }
        print(json.dumps(figures), flush=True)

    def _profile(self) -> None:
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(activities=kinds)
        self.profiler.__enter__()

    def _kernels(self) -> None:
        self._now()
        self.profiler.__exit__(None, None, None)
        cuda = torch.cuda.is_available()
        told: dict[str, Any] = {}
        if cuda:
            spans = sorted(
                (e.time_range.start, e.time_range.end)
                for e in self.profiler.events()
                if e.device_type == torch.autograd.DeviceType.CUDA
            )
            told["idle_share"] = idle_share(spans)
        of = "self_device_time_total" if cuda else "self_cpu_time_total"
        table = sorted(self.profiler.key_averages(), key=lambda e: -getattr(e, of))
        whole = sum(getattr(e, of) for e in table) or 1
        told["kernels"] = [[e.key[:70], round(getattr(e, of) / whole, 4), e.count] for e in table[:10]]
        print(json.dumps(told), flush=True)


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Share of the time from the first kernel to the last in which none runs.

    >>> idle_share([(0, 4), (2, 5), (7, 8), (9, 10)])
    0.3
    """
    if not spans:
        return 1.0
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])


def product_rate(device: str) -> float:
    """Operations a second of a large matrix product, the best of a few: bf16 on a card, fp32 on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(4):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * size**3 / best


def arithmetic(folder: Path, length: float, *, full: bool) -> float:
    """Operations of the model for one token: products with weights, and attention over half of `length`.

    The embedding is looked up, not multiplied; a tied head is multiplied. Backward, the gradient of inputs costs as much
    as forward, and that of weights once more where they are trained.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    weights = sum(p.numel() for p in model.get_decoder().layers.parameters() if p.ndim > 1)
    weights += config.vocab_size * config.hidden_size
    heads = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    attention = 2 * length * heads * config.num_hidden_layers  # q·k and p·v, each 2, halved: causal
    return (6 if full else 4) * weights + 3 * attention


def batches_of(settings: Any, data: list[Example]) -> list[Any]:
    """The micro-batches that bp-core makes of `data`, in its order."""
    base = resolve_base(settings.model.model)
    inputs = read_inputs(settings, base, choose_device(settings), sources=data, tell=lambda _: None)
    plan = plan_of(inputs.decided, inputs.prepared)
    steps = [s for e in range(99) for s in plan.epoch(e)][: inputs.decided.steps]
    return [[inputs.prepared.train.unit(int(i)) for i in step] for step in steps]


def ours(args: argparse.Namespace, folder: Path, way: str, data: list[Example], clock: Clock) -> None:
    class Tick(Callback):
        def on_step(self, info: Any) -> None:
            clock.tick()

    Trainer(tell=lambda _: None, callbacks=[Tick()], **settings_of(args, folder, way)).train(data)


def peer(args: argparse.Namespace, folder: Path, way: str, steps: list[Any], clock: Clock) -> None:
    """TRL's trainers on the same rows; Unsloth's model in them."""
    words = [word.strip() for word in way.split(",")]
    unsloth, dpo = words[0] == "unsloth", "dpo" in words
    if unsloth:
        from unsloth import FastLanguageModel  # patches transformers, and so comes first
    import trl
    from datasets import Dataset

    settings = resolve(settings_of(args, folder, way))
    cuda = torch.cuda.is_available()
    if unsloth:
        model, _ = FastLanguageModel.from_pretrained(
            str(folder), max_seq_length=8192, load_in_4bit="4-bit" in words, dtype=torch.bfloat16
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
        device = choose_device(settings)
        dtype = (
            torch.float32 if "full" in words else device.weights
        )  # as bp-core: masters of a whole model are fp32
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device.device)
        if "full" not in words:
            lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            model = get_peft_model(model, lora)
    units = [unit for step in steps for unit in step]
    common: dict[str, Any] = {
        "output_dir": str(args.folder / "peer"),
        "per_device_train_batch_size": args.batch,
        "max_steps": len(steps),
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "max_grad_norm": 1.0,
        "bf16": cuda,
        "use_cpu": not cuda,
        "gradient_checkpointing": bool(settings.training.gradient_checkpointing),
        "use_liger_kernel": "liger" in words,
        "max_length": None,
    }
    if dpo:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        text = [[tokenizer.decode(piece.ids) for piece in unit] for unit in units]
        cut = [_common(a, b) for a, b in text]
        listed = [
            {"prompt": a[:n], "chosen": a[n:], "rejected": b[n:]} for (a, b), n in zip(text, cut, strict=True)
        ]
        config: Any = trl.DPOConfig(**common)
        kind: Any = trl.DPOTrainer
    else:
        listed = [
            {
                "input_ids": piece.ids.tolist(),
                "labels": [i if m else -100 for i, m in zip(piece.ids.tolist(), piece.mask, strict=True)],
            }
            for (piece,) in units
        ]
        config, kind = trl.SFTConfig(**common, packing=False), trl.SFTTrainer

    class Tick(transformers.TrainerCallback):
        def on_step_end(self, *a: Any, **k: Any) -> None:
            clock.tick()

    dataset = Dataset.from_list(listed)
    trainer = kind(
        model=model,
        args=config,
        train_dataset=dataset,
        callbacks=[Tick()],
        processing_class=transformers.AutoTokenizer.from_pretrained(folder),
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(dataset)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()


def _common(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def missing(way: str) -> str:
    """Why a way cannot run here; "" where it can."""
    for name, package in (
        ("liger", "liger_kernel"),
        ("unsloth", "unsloth"),
        ("4-bit", "bitsandbytes"),
        ("trl", "trl"),
    ):
        if name in way and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if ("liger" in way or "unsloth" in way) and not torch.cuda.is_available():
        return "needs a CUDA card"
    if unknown := sorted(set(BASE.get(way, {})) - set(KEYWORDS)):
        return f"this version has no setting {', '.join(unknown)}"
    return ""


def job(args: argparse.Namespace, way: str, folder: Path) -> None:
    """One way, to its figures; the process ends in `Clock.tick`."""
    count = args.batch * (MOST + args.steps + PROFILED)
    data = rows(count, args.tokens, pairs="dpo" in way)
    settings = resolve(settings_of(args, folder, way))
    steps = batches_of(settings, data)
    tokens = [sum(len(p.ids) for unit in step for p in unit) for step in steps]
    length = sum(tokens) / sum(len(unit) for step in steps for unit in step)
    clock = Clock(
        args.steps,
        tokens,
        arithmetic(folder, length, full="full" in way),
        product_rate("cuda" if torch.cuda.is_available() else "cpu"),
    )
    if way in BASE:
        ours(args, folder, way, data, clock)
    else:
        peer(args, folder, way, steps, clock)
    raise SystemExit("the clock did not end the run")


def run_job(args: argparse.Namespace, way: str, folder: Path, steps: int) -> dict[str, Any]:
    """The figures of one way in a process of its own, or why there are none."""
    command = [sys.executable, __file__, "--job", way, str(folder), "--device", args.device]
    command += ["--steps", str(steps), "--batch", str(args.batch), "--tokens", str(args.tokens)]
    command += ["--folder", str(folder.parent)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    late = ""
    try:
        out, err = process.communicate(timeout=max(1.0, min(args.deadline, args.ends - time.monotonic())))
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        late = "its time was over"
    told: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith("{"):
            told |= json.loads(line)
    if "tokens_per_second" not in told:
        last = [line for line in err.strip().splitlines() if line.strip()]
        return {"not_run": late or (last[-1][:200] if last else f"ended with {process.returncode}")}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, help="measured; 40, or 12 of a shape above 4 billion")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="length of the longest rows, about")
    parser.add_argument("--deadline", type=float, default=180, help="seconds that one way may take")
    parser.add_argument(
        "--budget", type=float, default=1e9, help="seconds for everything; then no way is begun"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.ends = time.monotonic() + args.budget
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise SystemExit("no CUDA card here; --device cpu --shape toy tries the script itself")
    if args.job:
        job(args, args.job[0], Path(args.job[1]))
        return
    table: list[dict[str, Any]] = []
    for shape in args.shape or [s for s in SHAPES if s != "toy"]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            size = make_model(shape, folder, args.device)
            if args.device == "cuda":
                torch.cuda.empty_cache()
            own: dict[str, float] = {}
            for way in args.way or DEFAULT:
                why = missing(way) or ("no time is left" if time.monotonic() > args.ends - 10 else "")
                steps = args.steps or (12 if size > 4 else 40)
                told = {"not_run": why} if why else run_job(args, way, folder, steps)
                row = {"shape": shape, "billions": round(size, 2), "way": way, **told}
                if "not_run" not in told:
                    own[way] = told["tokens_per_second"]
                    if PEERS.get(way) in own:
                        row["bp_core_over_this"] = round(own[PEERS[way]] / own[way], 2)
                table.append(row)
                if not args.json:
                    print(shown(row), flush=True)
    if args.json:
        print(json.dumps(table))


def shown(row: dict[str, Any]) -> str:
    """A row as people read it."""
    head = f"{row['shape']:14} {row['way']:26}"
    if "not_run" in row:
        return f"{head} {row['not_run']}"
    text = f"{head} {row['tokens_per_second']:>9,.0f} tokens/s {row['peak_bytes'] / 1e9:7.2f} GB  MFU {row['mfu']:6.1%}"
    if "idle_share" in row:
        text += f"  idle {row['idle_share']:5.1%}"
    if "bp_core_over_this" in row:
        text += f"  bp-core / this {row['bp_core_over_this']:.2f}"
    text += f"  ({row['measured']} steps after {row['warm_up']}, {row['device']})"
    for name, share, count in row.get("kernels", []):
        text += f"\n{'':14}   {share:6.1%} {count:>6} × {name}"
    return text


if __name__ == "__main__":
    main()
