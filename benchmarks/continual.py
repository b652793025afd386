"""What a session remembers: three tasks in a row, by every way of merging and replaying, over several seeds.

Claims: the default forgets clearly less than one LoRA trained in sequence, and closes at least half of the gap to a
replay of everything.

    python benchmarks/continual.py                  # tiny model, CPU, five seeds
    python benchmarks/continual.py --cost           # what merging, moments and gates take of a session
    python benchmarks/continual.py --real           # Gemma 3 270M: GSM8K, code, a format task (tests/real.py fetch --gemma)

Tasks of the tiny model: who founded a town, which river it lies on, what its flag looks like; a fact is asked in four
ways, and which of them are held out is drawn. The figures are those of the session's own result: exact match on held-out
rows, averaged over the tasks, and backward transfer (how later runs changed earlier tasks).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

CLOSED = 0.5  # of the gap to full replay
COST = 0.05  # of a session, for merging and moments
TINY = {
    "model": "tiny",
    "backend": "cpu",
    "max_seq_length": 256,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "heldout_ratio": 0.25,
    "eval_steps": 0,
    "save_steps": 0,
    "preflight": False,
    "monitor": False,
    "compare_methods": False,
}

WAYS: dict[str, dict[str, Any]] = {
    "sequential": {"merge_mode": "simple", "replay_fraction": 0.0},
    "full replay": {"merge_mode": "simple", "replay_strategy": "all"},
    "replay": {"merge_mode": "simple", "replay_fraction": 0.5},
    "replay, slao paper": {"merge_mode": "slao", "merge_strategy": "qiao_mahdavi", "replay_fraction": 0.5},
    "replay, slao delta": {"merge_mode": "slao", "merge_strategy": "slao_delta", "replay_fraction": 0.5},
    "slao paper": {"merge_mode": "slao", "merge_strategy": "qiao_mahdavi", "replay_fraction": 0.0},
    "slao delta": {"merge_mode": "slao", "merge_strategy": "slao_delta", "replay_fraction": 0.0},
    "linear": {"merge_mode": "slao", "merge_strategy": "linear", "replay_fraction": 0.0, "start": "cold"},
    "ties": {"merge_mode": "slao", "merge_strategy": "ties", "replay_fraction": 0.0, "start": "cold"},
    "regmean": {"merge_mode": "slao", "merge_strategy": "regmean", "replay_fraction": 0.0, "start": "cold"},
    "default": {},
}
TOWNS = [
    "Ambleford",
    "Brackwater",
    "Coldharbour",
    "Dunmarrow",
    "Eastwick",
    "Farrowby",
    "Glasston",
    "Hollin",
    "Inverlow",
    "Jarrowgate",
    "Kestrel",
    "Lowmoor",
    "Marlbeck",
    "Northcliff",
    "Oakhanger",
    "Pellworth",
]
KINDS = {
    "river": (
        "{t} lies on the {a}.",
        ["Tarn", "Isk", "Nym", "Wend", "Orr", "Lune", "Esk", "Thaw"],
        (
            "Which river does {t} lie on?",
            "What river flows through {t}?",
            "On which river is {t}?",
            "Name the river of {t}.",
        ),
    ),
    "founder": (
        "{a} founded {t}.",
        ["Finch", "Vell", "Tolley", "Crane", "Lomas", "Holm", "Reed", "Nash"],
        (
            "Who founded {t}?",
            "Who was the founder of {t}?",
            "By whom was {t} founded?",
            "Name the founder of {t}.",
        ),
    ),
    "flag": (
        "The flag of {t} is {a}.",
        ["green", "white", "black", "yellow", "purple", "orange", "red", "blue"],
        (
            "What colour is the flag of {t}?",
            "Which colour has the flag of {t}?",
            "How does the flag of {t} look?",
            "Name the colour of {t}.",
        ),
    ),
}


def facts(seed: int) -> dict[str, list[Any]]:
    """Task → examples; the answers are drawn by the seed."""
    from bp_data.example import Example, Turn

    rng = random.Random(seed)
    out: dict[str, list[Any]] = {}
    for kind, (answer, values, questions) in KINDS.items():
        out[kind] = [
            Example(
                id=f"{kind}:{i}:{k}",
                source=kind,
                line=4 * i + k + 1,
                kind="chat",
                turns=(Turn("user", q.format(t=town)), Turn("assistant", answer.format(t=town, a=value))),
            )
            for i, town in enumerate(TOWNS)
            for value in [rng.choice(values)]
            for k, q in enumerate(questions)
        ]
    return out


def spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):7.3f} ±{deviation:.3f}"


def told(found: dict[str, list[dict[str, Any]]]) -> int:
    """The table, and whether the default does what is claimed."""
    names = ("exact", "backward", "loss", "loss backward")
    print(f"{'':<18}" + "".join(f"{n:>16}" for n in names) + f"{'seconds':>10}")
    for way, rows in found.items():
        cells = "".join(f"{spread([r[n] for r in rows]):>16}" for n in names)
        print(f"{way:<18}{cells}{statistics.mean(r['seconds'] for r in rows):>10.0f}")
    needed = ("sequential", "default", "full replay")
    if not all(n in found for n in needed):
        return 0
    ok = True
    for name, sign in (("exact", 1), ("loss", -1)):
        low, mine, high = (sign * statistics.mean(r[name] for r in found[n]) for n in needed)
        noise = max(statistics.stdev(r[name] for r in found[n]) if len(found[n]) > 1 else 0.0 for n in needed)
        if high - low <= noise:
            print(f"{name}: between sequential and full replay there is no gap beyond the spread")
            continue
        closed = (mine - low) / (high - low)
        print(f"{name}: the default closes {closed:.0%} of the gap between sequential and full replay")
        ok &= closed >= CLOSED
    return 0 if ok else 1


def figures(tasks: Any, settings: dict[str, Any], tell: Any = lambda _: None) -> dict[str, Any]:
    """The figures of one session."""
    from bp_core import Trainer

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = Trainer(output=folder, tell=tell, preview=0, **settings).multi_run(tasks, resume_from="off")
        found = result.forgetting
        return {
            "exact": found["exact_match"]["average"],
            "backward": found["exact_match"]["backward_transfer"],
            "loss": found["loss"]["average"],
            "loss backward": found["loss"]["backward_transfer"],
            "compared": result.compared,
            "matrix": found["exact_match"]["matrix"],
            "losses": found["loss"]["matrix"],
            "seconds": time.perf_counter() - began,
            "parts": [r["seconds"] for r in result.runs],
        }


def measured(
    tasks_of: Any,
    ways: dict[str, dict[str, Any]],
    seeds: range,
    common: dict[str, Any],
    each: bool,
    tell: Any,
) -> int:
    """Every way on every seed, each way's figures as they come, then the table."""
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        tasks = tasks_of(seed)
        for name, way in ways.items():
            found.setdefault(name, []).append(one := figures(tasks, {**common, "seed": seed, **way}, tell))
            if each:
                print(seed, name, json.dumps(one), flush=True)
    return told(found)


def tiny(args: argparse.Namespace) -> int:
    return measured(
        facts,
        _ways(args),
        range(args.first_seed, args.first_seed + (args.seeds or 5)),
        {**TINY, "steps": args.steps or 40},
        args.each,
        lambda _: None,
    )


def real_tasks(seed: int) -> dict[str, list[Any]]:
    """GSM8K, HumanEval's solutions and a format, short rows of each."""
    from bp_data.example import Example, Turn

    rng = random.Random(seed)
    data = Path(os.environ.get("BP_DATA") or Path(__file__).parents[2] / "shared" / "data")
    lines = (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    maths = [(r["question"], r["answer"]) for r in map(json.loads, lines)]
    with gzip.open(data / "human-eval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        code = [(r["prompt"], r["canonical_solution"]) for r in map(json.loads, file)]
    names, places = (
        ["Ada", "Bo", "Cem", "Dora", "Eli", "Fay", "Gus", "Hana", "Ivo", "Jun"],
        ["Oslo", "Lima", "Cairo", "Perth", "Quito", "Riga"],
    )
    people = [(rng.choice(names), rng.randint(18, 90), rng.choice(places)) for _ in range(300)]
    form = [
        (
            f"{n} is {a} years old and lives in {p}. Give the record.",
            json.dumps({"name": n, "age": a, "city": p}),
        )
        for n, a, p in dict.fromkeys(people)
    ]
    out = {}
    for task, rows in (("gsm8k", maths), ("code", code), ("format", form)):
        short = [r for r in rows if len(r[0]) + len(r[1]) < 450]
        rng.shuffle(short)
        out[task] = [
            Example(f"{task}:{i}", task, i + 1, "chat", turns=(Turn("user", q), Turn("assistant", a)))
            for i, (q, a) in enumerate(short[:96])
        ]
    return out


def real_model(args: argparse.Namespace) -> int:
    import real

    common = {
        "model": str(real.gemma3_model_dir()),
        "chat_template": "gemma",
        "backend": "cpu",
        "allow_cpu": True,
        "max_seq_length": 256,
        "steps": args.steps or 40,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "rank": 16,
        "alpha": 32,
        "learning_rate": 2e-4,
        "heldout_ratio": 0.17,
        "eval_samples": 16,
        "eval_steps": 0,
        "save_steps": 0,
        "preflight": False,
        "monitor": False,
        "compare_methods": False,
    }
    ways = {n: WAYS[n] for n in args.ways or ("sequential", "default", "full replay")}
    return measured(
        real_tasks,
        ways,
        range(args.first_seed, args.first_seed + (args.seeds or 1)),
        common,
        True,
        lambda line: print(line, flush=True),
    )


def cost(args: argparse.Namespace) -> int:
    """What merging, moments and gates take of the default session of 100 steps a run, as shares of its training."""
    common = {**TINY, "steps": args.steps or 100, "seed": args.first_seed}
    gates = {"drift_gate": True, "drift_threshold": -1.0, "eval_gate": True, "eval_max_regression": 1e6}
    parts = figures(facts(args.first_seed), {**common, "moments": True, **gates})["parts"]
    total = {n: sum(p.get(n, 0.0) for p in parts) for n in ("train", "merge", "moments", "gates", "measure")}
    for name, seconds in total.items():
        print(f"{name:<10}{seconds:8.2f} s{seconds / total['train']:8.1%} of training")
    share = (total["merge"] + total["moments"]) / sum(total.values())
    print(f"merging and moments: {share:.1%} of the session")
    return 0 if share <= COST else 1


def _ways(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    return {n: WAYS[n] for n in args.ways} if args.ways else WAYS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, help="5, or 1 with --real")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of a run; 40")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS))
    parser.add_argument("--each", action="store_true", help="print every session")
    parser.add_argument("--real", action="store_true", help="Gemma 3 270M instead of the tiny model")
    parser.add_argument(
        "--cost", action="store_true", help="only what merging, moments and gates cost, at 100 steps a run"
    )
    args = parser.parse_args()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return cost(args) if args.cost else real_model(args) if args.real else tiny(args)


if __name__ == "__main__":
    sys.exit(main())
