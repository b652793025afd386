"""Preferences on a real model: Gemma 3 270M learns right answers over wrong ones, and answers alike in llama.cpp.

Claims: held-out preference accuracy and margin rise; the exported f32 GGUF continues greedily as the trained model
does, or first differs where the two best logits lie within 1e-3 of each other.

    python tests/real.py fetch --gemma
    python benchmarks/real_preference.py --data gsm8k_train.jsonl --method orpo --steps 12

A pair is a question of GSM8K with its answer, and with the same answer after its results were changed: what differs
are numbers, not style. Short rows alone are taken, so that a CPU is enough.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import real

QUESTIONS = (
    "Tom has 3 boxes with 12 pencils each. He gives 5 pencils away. How many pencils does he have left?",
    "A train goes 60 miles in an hour. How far does it go in 3 hours?",
)


def pair(question: str, answer: str, rng: random.Random) -> dict[str, str]:
    """Chosen: the answer without GSM8K's calculator marks. Rejected: each result moved by some amount."""
    moved: dict[str, str] = {}

    def wrong(number: str) -> str:
        value = int(number)
        return moved.setdefault(number, str(max(0, value + rng.choice((-9, -4, -2, 1, 3, 7, 20)))))

    right = re.sub(r"<<[^>]*>>", "", answer)
    results = set(re.findall(r"=(\d+)>>", answer)) | set(re.findall(r"#### (\d+)", answer))
    bad = re.sub(r"\d+", lambda m: wrong(m[0]) if m[0] in results else m[0], right)
    return {"prompt": question, "chosen": right, "rejected": bad}


def write_pairs(data: Path, rows: int, out: Path) -> None:
    """The shortest questions with whole-number results, as pairs."""
    rng, found = random.Random(0), []
    with data.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if len(row["question"]) + 2 * len(row["answer"]) < 420:
                found.append(pair(row["question"], row["answer"], rng))
    kept = [row for row in found if row["chosen"] != row["rejected"]][:rows]
    out.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def compared(trainer: Any, gguf: Path, question: str, tokens: int) -> dict[str, Any]:
    """Greedy ids of the trained model and of the file in llama.cpp, up to the first that differs."""
    import torch
    from bp_data.example import Turn
    from bp_export.verify.runtime import open_runtime

    trained = trainer._trained()
    model = trained.model.eval()
    prompt = trained.encoder.prompt_ids((Turn("user", question),), ())
    runtime = open_runtime(gguf, threads=2)
    assert runtime is not None, "no llama.cpp is installed: uv pip install xllamacpp"
    try:
        theirs = list(runtime.generate(prompt, tokens))
    finally:
        runtime.close()
    ends = {trained.encoder.tokenizer.eos_token_id, *trained.encoder.stops}
    with torch.no_grad():
        ids = torch.tensor([prompt])
        made = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=sorted(ends))
    ours = made[0, len(prompt) :].tolist()
    told: dict[str, Any] = {"text": trained.encoder.tokenizer.decode(ours, skip_special_tokens=True)}
    length = min(len(ours), len(theirs))
    first = next((i for i in range(length) if ours[i] != theirs[i]), None)
    told |= {"compared": length, "first_difference": first, "gap": None}
    if first is not None:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ours[:first]])).logits[0, -1].float()
        best = logits.topk(2).values
        told["gap"] = float(best[0] - best[1])
    return told


def main() -> None:
    """Train, measure, export, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL of {question, answer}")
    parser.add_argument("--method", choices=("dpo", "orpo"), default="orpo")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--tokens", type=int, default=40, help="of greedy text that are compared")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    from bp_core import RunStore, Trainer

    root = Path(tempfile.mkdtemp())
    began = time.perf_counter()
    try:
        write_pairs(args.data, args.rows, root / "pairs.jsonl")
        trainer = Trainer(
            real.gemma3_model_dir(),
            chat_template="gemma",
            output=root / "runs",
            tell=lambda _: None,
            method=args.method,
            steps=args.steps,
            batch_size=4,
            gradient_accumulation=1,
            rank=16,
            alpha=32,
            learning_rate=args.lr,
            heldout_ratio=0.2,
            eval_steps=0,
            save_steps=0,
            preview=0,
            preflight=False,
            allow_cpu=True,
            dtype="float32",
        )
        result = trainer.train(str(root / "pairs.jsonl"))
        store = RunStore(root / "runs")
        told: dict[str, Any] = {"method": args.method, "steps": result.steps}
        for name in ("loss", "rewards_accuracy", "rewards_margin", "logps_chosen", "logps_rejected"):
            values = [value for _, value in store.metrics(result.run_id, f"heldout_{name}")]
            told[f"heldout_{name}"] = [round(values[0], 4), round(values[-1], 4)]
        told["heldout_pairs"] = store.get(result.run_id).dataset["heldout"]["units"]
        told["seconds_per_step"] = round(result.seconds / result.steps, 1)
        gguf = trainer.export("gguf", quantization="f32").path
        told["gguf_mb"] = round(Path(gguf).stat().st_size / 1e6)
        told["greedy"] = [compared(trainer, gguf, question, args.tokens) for question in QUESTIONS]
        told["minutes"] = round((time.perf_counter() - began) / 60, 1)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if args.json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
