"""Evaluation on a real model: Gemma 3 270M before and after a short tuning on GSM8K, and the same answers in llama.cpp.

Claims: `backprop eval RUN --vs base` gives the numeric accuracy of both with its interval and the rows that flipped;
the exported f32 GGUF says the same in llama.cpp, or first differs where the two best logits are less than 1e-3 apart.

    python tests/real.py fetch --gemma
    python benchmarks/real_eval.py --data gsm8k --steps 32 --rows 24 --gguf-rows 12

Every step is the command itself, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
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

GAP = 1e-3  # of the two best logits, below which two programs may choose differently


def backprop(*words: str) -> dict[str, Any]:
    """The JSON of one command, with its seconds."""
    began = time.perf_counter()
    program = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]
    done = subprocess.run([*program, *words, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"backprop {' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    print(f"{words[0]} {words[1]}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return told


def answers_of(folder: Path, name: str = "eval-rows.jsonl") -> dict[str, str]:
    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["prediction"] for row in map(json.loads, lines)}


def first_differences(
    run: str, output: Path, asked: dict[str, str], differ: dict[str, tuple[str, str]]
) -> dict[str, float]:
    """By row the gap of the two best logits of the tuned model where its two answers part."""
    if not differ:
        return {}
    from bp_core.assessment.opening import open_source
    from bp_core.assessment.sources import find_source
    from bp_core.generation.prompts import Prompt
    from generation import gap

    local: Any = open_source(find_source(run, output))
    return {
        i: gap(local, local.encoder.prompt_ids(Prompt.of(asked[i]).turns), *pair)
        for i, pair in differ.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and test.jsonl")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--gguf-rows", type=int, default=12)
    parser.add_argument("--max-new-tokens", type=int, default=160)
    parser.add_argument("--folder", type=Path, help="keep what is made here")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    scratch = None if args.folder else tempfile.TemporaryDirectory()
    folder: Path = args.folder or Path(scratch.name)  # type: ignore[union-attr]
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "out"
    lines = (args.data / "test.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "eval.jsonl").write_text("\n".join(lines[: args.rows]) + "\n", encoding="utf-8")
    (folder / "few.jsonl").write_text("\n".join(lines[: args.gguf_rows]) + "\n", encoding="utf-8")
    long = ["--max-new-tokens", str(args.max_new_tokens)]
    trained = backprop(
        *("train", "-m", str(real.gemma3_model_dir()), "--chat-template", "gemma", "-o", str(output)),
        *(
            "-d",
            str(args.data / "train.jsonl"),
            "--samples",
            str(args.steps * 4 + 40),
            "--steps",
            str(args.steps),
        ),
        *("--batch-size", "4", "--gradient-accumulation", "1", "--rank", "16", "--learning-rate", "2e-4"),
        *("--eval-samples", "8", "--eval-steps", "0", "--save-steps", "0", "--preview", "0", "--allow-cpu"),
    )
    run = trained["run_id"]
    compared = backprop(
        "eval", run, "--eval-set", str(folder / "eval.jsonl"), "--vs", "base", *long, "-o", str(output)
    )
    gguf = backprop(
        "export",
        trained["adapter_path"],
        "--format",
        "gguf",
        "--quantization",
        "f32",
        "--output",
        str(folder / "gguf"),
    )
    in_llama = backprop(
        "eval", gguf["path"], "--eval-set", str(folder / "few.jsonl"), *long, "-o", str(output)
    )
    here = answers_of(output / compared["run_id"])
    there = answers_of(output / in_llama["run_id"])
    asked = {
        f"few.jsonl:{n}": json.loads(line)["question"] for n, line in enumerate(lines[: args.gguf_rows], 1)
    }
    pairs = {i: (here[i.replace("few", "eval")], text) for i, text in there.items()}
    differ = {i: pair for i, pair in pairs.items() if pair[0] != pair[1]}
    gaps = first_differences(run, output, asked, differ)
    metric = compared["comparison"]["eval"]["math_equal"]
    told = {
        "rows": compared["eval_n"],
        "accuracy_base": metric["baseline"],
        "accuracy_tuned": metric["candidate"],
        "accuracy_tuned_ci": compared["metric_ci"]["math_equal"],
        "difference": metric["delta"],
        "difference_ci": [metric["interval"]["low"], metric["interval"]["high"]],
        "became_right": metric["improved"],
        "became_wrong": metric["worsened"],
        "heldout_loss_base": compared["baseline_sets"]["heldout"]["heldout_loss"],
        "heldout_loss_tuned": compared["heldout_loss"],
        "gguf_rows": len(pairs),
        "gguf_same": len(pairs) - len(differ),
        "gguf_gaps_where_they_part": gaps,
        "holds": all(gap < GAP for gap in gaps.values()),
    }
    if args.json:
        print(json.dumps(told))
    else:
        ci, d = told["accuracy_tuned_ci"], told["difference_ci"]
        print(
            f"GSM8K, {told['rows']} rows: base {told['accuracy_base']:.3f}, tuned {told['accuracy_tuned']:.3f} ({ci[0]:.3f} … {ci[1]:.3f})"
        )
        print(
            f"difference {told['difference']:+.3f} ({d[0]:+.3f} … {d[1]:+.3f}); right now {told['became_right']}, wrong now {told['became_wrong']}"
        )
        print(f"held-out loss {told['heldout_loss_base']:.3f} → {told['heldout_loss_tuned']:.3f}")
        print(
            f"llama.cpp: {told['gguf_same']} of {told['gguf_rows']} answers the same; gaps where they part: {gaps}"
        )
    return 0 if told["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
