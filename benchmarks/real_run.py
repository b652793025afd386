"""The whole chain on a real model: Gemma 3 270M learns GSM8K, is killed, resumes, and answers in llama.cpp.

Claims: the held-out loss falls; a killed and resumed run ends with the weights of the uninterrupted one, bit for bit;
a step takes no longer than a hand-written loop's; the exported GGUF says what the trained model says.

    python tests/real.py fetch --gemma
    python benchmarks/real_run.py --data gsm8k_train.jsonl --steps 24

The template is chosen by name (`gemma`), since a pretrained base has none. Every training is a process of its own.
The hand-written loop does the last steps of the same run on the same batches, with the logits of all positions, as
most loops do, and at labelled positions only, as bp-core does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import real

QUESTION = (
    "Tom has 3 boxes with 12 pencils each. He gives 5 pencils away. How many pencils does he have left?"
)


def model_of(args: argparse.Namespace) -> str:
    return args.model or str(real.gemma3_model_dir())


def settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        **({} if args.model else {"chat_template": "gemma"}),
        "data": (str(args.data),),
        "samples": args.rows,
        "steps": args.steps,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "rank": 16,
        "alpha": 32,
        "learning_rate": 2e-4,
        "save_steps": max(1, args.steps // 6),
        "eval_samples": 16,
        "preview": 0,
        "allow_cpu": True,
    }


def train(args: argparse.Namespace) -> None:
    """The job of a child: train or resume below `args.folder`, export and answer where asked."""
    from bp_core import RunStore, Trainer

    quiet = lambda _: None  # noqa: E731
    trainer = Trainer(model_of(args), output=args.folder, tell=quiet, **settings(args))
    if args.job == "resume":
        result = trainer.resume(RunStore(args.folder).list()[0].run_id)
    else:
        result = trainer.train()
    told = {**result.to_dict(), "adapter_path": str(result.adapter_path), "path": str(result.path)}
    if args.job == "export":
        began = time.perf_counter()
        gguf = trainer.export("gguf", quantization="f16").path
        told |= {"gguf": str(gguf), "export_seconds": round(time.perf_counter() - began, 1)}
        told["answer"] = trainer.generate(QUESTION, max_new_tokens=48)
    print(json.dumps(told, default=str))


def llama(args: argparse.Namespace) -> None:
    """The job of a child: the GGUF's answer in llama.cpp to the same prompt."""
    import transformers
    from bp_export.verify.runtime import open_runtime

    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    runtime = open_runtime(args.gguf, threads=2)
    assert runtime is not None, "no llama.cpp is installed: uv pip install xllamacpp"
    try:
        ids = runtime.tokenize(prompt, add_special=True, parse_special=True)
        answer = runtime.generate(ids, 48)
    finally:
        runtime.close()
    ends = json.loads((args.folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    end = {ends} if isinstance(ends, int) else set(ends)
    stop = next((i for i, token in enumerate(answer) if token in end), len(answer))
    print(json.dumps({"ids": len(ids), "answer": tokenizer.decode(answer[:stop]).strip()}))


def hand_loop(args: argparse.Namespace) -> None:
    """The job of a child: seconds per step of a loop without logging, guards or checkpoints."""
    import torch
    import torch.nn.functional as F
    from bp_core.models.adapters import add_adapter
    from bp_core.models.device import choose_device
    from bp_core.models.load import load_model
    from bp_core.settings.resolve import resolve
    from bp_core.training.batch import collate
    from bp_core.training.cross_entropy import full_cross_entropy
    from bp_core.training.decide import plan_of
    from bp_core.training.inputs import read_inputs
    from bp_core.training.refusals import refuse_early

    quiet = lambda _: None  # noqa: E731
    given, base = refuse_early(
        resolve({"model": model_of(args), "output": args.folder, **settings(args)}), quiet
    )
    inputs = read_inputs(given, base, choose_device(given), tell=quiet)
    decided, prepared = inputs.decided, inputs.prepared
    steps = list(plan_of(decided, prepared).epoch(0))[: args.steps]
    model = add_adapter(load_model(inputs.folder, decided.settings, inputs.device), decided).train()
    whole = model.get_base_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
    seconds: dict[str, list[float]] = {"full": [], "same": []}
    for number, step in enumerate(steps[-args.hand :]):
        batch = collate([prepared.train.unit(int(i)) for i in step], 0)
        for kind in ("same", "full") if number % 2 else ("full", "same"):
            began = time.perf_counter()
            if kind == "same":
                hidden = whole.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
                picked = hidden.flatten(0, 1)[batch.where]
                loss = full_cross_entropy(picked, whole.get_output_embeddings().weight, batch.targets)
                loss = loss / len(batch.where)
            else:
                logits = model(input_ids=batch.input_ids, use_cache=False).logits
                labels = torch.full_like(batch.input_ids, -100).flatten()
                labels[batch.where + 1] = batch.targets
                labels = labels.view_as(batch.input_ids)
                loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            seconds[kind].append(time.perf_counter() - began)
    tokens = [sum(int(prepared.train.lengths[i]) for i in step) for step in steps[-args.hand :]]
    print(json.dumps({**seconds, "tokens": tokens}))


def child(args: argparse.Namespace, job: str, folder: Path, *more: str, wait: bool = True) -> Any:
    command = [sys.executable, __file__, "--data", str(args.data), "--steps", str(args.steps)]
    command += [
        "--rows",
        str(args.rows),
        "--hand",
        str(args.hand),
        "--job",
        job,
        "--folder",
        str(folder),
        *more,
    ]
    command += ["--model", args.model] if args.model else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not wait:
        return process
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{job} failed:\n{err[-3000:]}")
    return json.loads(out.splitlines()[-1])


def kill(args: argparse.Namespace, folder: Path) -> int:
    """Kill a run at a random moment after its second checkpoint; returns the step that is resumed from."""
    process = child(args, "train", folder, wait=False)
    while len(list(folder.glob("*/checkpoints/step-*/manifest.json"))) < 2:
        if process.poll() is not None:
            raise SystemExit(
                f"the run that was to be killed ended by itself:\n{process.stderr.read()[-3000:]}"
            )
        time.sleep(0.2)
    time.sleep(random.Random(0).uniform(0, 6))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return max(int(p.parent.name[5:]) for p in folder.glob("*/checkpoints/step-*/manifest.json"))


def digest(told: dict[str, Any]) -> str:
    return hashlib.sha256((Path(told["adapter_path"]) / "adapter_model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="JSONL of {question, answer}")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--hand", type=int, default=4, help="steps of the hand-written loop")
    parser.add_argument("--model", help="instead of Gemma 3 270M, one with a chat template of its own")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--gguf", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        {"hand": hand_loop, "llama": llama}.get(args.job, train)(args)
        return
    root = Path(tempfile.mkdtemp())
    try:
        straight = child(args, "export", root / "straight")
        step = kill(args, root / "killed")
        resumed = child(args, "resume", root / "killed")
        answered = child(args, "llama", Path(straight["adapter_path"]), "--gguf", straight["gguf"])
        hand = child(args, "hand", root / "hand") if args.hand else None
        told = {
            "steps": straight["steps"],
            "tokens": straight["tokens"],
            "heldout_loss_before": straight["heldout_loss_before"],
            "heldout_loss_after": straight["heldout_loss_after"],
            "seconds_per_step": round(straight["seconds"] / straight["steps"], 2),
            "tokens_per_second": straight["tokens_per_second"],
            "peak_memory_gb": round(straight["peak_memory"] / 1e9, 2),
            "killed_after_step": step,
            "killed_and_resumed_equal": digest(straight) == digest(resumed),
            "gguf_mb": round(Path(straight["gguf"]).stat().st_size / 1e6),
            "export_seconds": straight["export_seconds"],
            "answer": straight["answer"].strip(),
            "answer_in_llama_cpp": answered["answer"],
        }
        if hand:
            for kind in ("same", "full"):
                rates = [n / s for n, s in zip(hand["tokens"][1:], hand[kind][1:], strict=True)]
                told[f"hand_loop_{kind}_tokens_per_second"] = round(statistics.median(rates), 1)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if args.json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"{name:36} {value}")


if __name__ == "__main__":
    main()
