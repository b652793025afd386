"""Answers per second of an evaluation against transformers' own `generate` row by row, and lm-eval, on the same prompts.

Claim: at least twice the row-by-row loop by batching, with the same texts.

    python benchmarks/generation.py --rows 64                                        # the embedded tiny model
    python tests/real.py fetch --gemma
    uv run --with lm-eval python benchmarks/generation.py --real --data gsm8k --rows 24 --max-new-tokens 96

All are greedy on the same token ids and stop at the same ids; lm-eval has the same batch size. Each way takes its turn
in every repetition, and the ratio is taken within the repetition. Where two texts differ, the gap of the two best logits
at the place where they part is printed: batching rounds otherwise, which decides only between logits that are equal to
rounding. Peak memory is that of the process, read after each way the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
warnings.simplefilter("ignore")

import torch
from bp_core.assessment.opening import open_source
from bp_core.assessment.sources import find_source
from bp_core.generation.prompts import Prompt
from bp_core.settings.groups.generation import GenerationSettings, SourceSettings

CLAIM = 2.0


def questions(args: argparse.Namespace) -> list[str]:
    """Those of a data set, else made ones of 5 to 80 words."""
    if args.data is not None:
        lines = (args.data / "test.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["question"] for line in lines[: args.rows]]
    draw = random.Random(0)
    words = [
        "which",
        "town",
        "has",
        "the",
        "old",
        "bridge",
        "over",
        "a",
        "river",
        "and",
        "who",
        "built",
        "it",
        "first",
    ]
    return [" ".join(draw.choices(words, k=draw.randint(5, 80))) + "?" for _ in range(args.rows)]


def row_by_row(local: Any, prompts: list[list[int]], limit: int) -> list[str]:
    """`model.generate`, one prompt after the other."""
    tokenizer, ends = local.encoder.tokenizer, sorted(local.ends())
    said = []
    for ids in prompts:
        given = torch.tensor([ids])
        made = local.model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        said.append(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip())
    return said


def by_lm_eval(
    local: Any, prompts: list[list[int]], limit: int, batch: int
) -> Callable[[], list[str]] | None:
    """The same requests to lm-eval's own model class; None where it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    tokenizer = local.encoder.tokenizer
    wrapped = HFLM(pretrained=local.model, tokenizer=tokenizer, batch_size=batch)
    until = [tokenizer.decode([end]) for end in sorted(local.ends())]
    requests = []
    for ids in prompts:
        text = tokenizer.decode(ids)
        if wrapped.tok_encode(text) != ids:  # lm-eval adds the first token itself
            text = tokenizer.decode(ids[1:])
        assert wrapped.tok_encode(text) == ids, "lm-eval reads this prompt as other tokens"
        asked = {"until": until, "max_gen_toks": limit, "do_sample": False}
        requests.append(Instance("generate_until", {}, (text, asked), 0))
    return lambda: [text.strip() for text in wrapped.generate_until(requests, disable_tqdm=True)]


def gap(local: Any, ids: list[int], one: str, other: str) -> float:
    """The difference of the two best logits where two answers to a prompt of those token ids part."""
    a, b = (local.encoder.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (one, other))
    same = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    with torch.no_grad():
        best = local.model(input_ids=torch.tensor([ids + a[:same]])).logits[0, -1].float().topk(2).values
    return float(best[0] - best[1])


def peak() -> float:
    """GB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--real", action="store_true", help="Gemma 3 270M")
    parser.add_argument("--data", type=Path, help="a folder with test.jsonl of questions")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    given = SourceSettings(backend="cpu")
    if args.real:
        import real

        args.model = str(real.gemma3_model_dir())
        given = SourceSettings(backend="cpu", chat_template="gemma")
    local: Any = open_source(find_source(args.model, Path("output")), given)
    asked = [Prompt.of(text) for text in questions(args)]
    prompts = [local.encoder.prompt_ids(prompt.turns) for prompt in asked]
    settings = GenerationSettings(max_new_tokens=args.max_new_tokens, batch_size=args.batch)
    ways: dict[str, Callable[[], list[str]]] = {
        "row by row": lambda: row_by_row(local, prompts, args.max_new_tokens),
        "bp-core": lambda: [answers[0].text for answers in local.answer(asked, settings)],
    }
    if (peer := by_lm_eval(local, prompts, args.max_new_tokens, args.batch)) is not None:
        ways["lm-eval"] = peer
    else:
        print("lm-eval is not installed: left out")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, list[str]] = {}
    held: dict[str, float] = {}
    for _ in range(args.repeat):
        for name, way in ways.items():
            began = time.perf_counter()
            said[name] = way()
            seconds[name].append(time.perf_counter() - began)
            held.setdefault(name, peak())
    print(f"{args.rows} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")
    for name, took in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["row by row"], took, strict=True))
        same = sum(a == b for a, b in zip(said[name], said["row by row"], strict=True))
        print(
            f"{name:<12}{args.rows / statistics.median(took):8.2f} answers/s  {ratio:5.2f}x row by row"
            f"  {same} of {args.rows} texts the same  {held[name]:.2f} GB"
        )
    parted = [
        gap(local, ids, one, other)
        for ids, one, other in zip(prompts, said["bp-core"], said["row by row"], strict=True)
        if one != other
    ]
    if parted:
        print(f"logits apart where bp-core's texts part: {', '.join(f'{g:.1e}' for g in parted)}")
    faster = statistics.median(a / b for a, b in zip(seconds["row by row"], seconds["bp-core"], strict=True))
    return 0 if faster >= CLAIM and all(g < 1e-3 for g in parted) else 1


if __name__ == "__main__":
    sys.exit(main())
