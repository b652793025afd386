"""Real tokens per second by how short rows are put together, against randomly padded batches.

Claim: grouping similar lengths is at least 1.8 times as fast; packing where attention isolates is shown beside it.

    python benchmarks/batching.py --steps 20 --repeat 3
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"

from bp_core import Trainer
from bp_data.example import Example, Turn


def rows(count: int) -> list[Example]:
    """Mostly short chats with a long tail, as in public instruction sets."""
    rng = random.Random(0)
    made = []
    for i in range(count):
        words = min(220, int(rng.lognormvariate(2.6, 1.0)) + 2)
        made.append(
            Example(
                f"x:{i}",
                "x",
                i,
                "chat",
                (Turn("user", "What is next?"), Turn("assistant", "name " * words + ".")),
            )
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    data = rows(1200)
    ways = {
        "random": {"batching": "random"},
        "grouped": {},
        "packed": {"packing": True, "max_seq_length": 512},
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(args.repeat + 1):
        for name, settings in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer("tiny", output=Path(folder), tell=lambda _: None)
                result = trainer.train(
                    data,
                    steps=args.steps,
                    batch_size=16,
                    gradient_accumulation=1,
                    heldout_ratio=0.0,
                    eval_steps=0,
                    save_steps=0,
                    preview=0,
                    preflight=False,
                    lr=1e-4,
                    **settings,
                )
            if repetition:
                figures[name].append(result.tokens_per_second)
    for name, values in figures.items():
        ratios = [a / b for a, b in zip(values, figures["random"], strict=True)]
        print(
            f"{name:8}  {statistics.median(values):8,.0f} real tokens/s   {statistics.median(ratios):.2f} of random ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
