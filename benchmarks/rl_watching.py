"""What watching adds to learning from rewards: CPU seconds of the watch against those of the whole of each step.

Claim: at most 2 %.

    python benchmarks/rl_watching.py --steps 12

The tiny model, a step of 16 answers of up to 24 tokens; a larger model makes the share smaller.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from bp_core import Callback, StepInfo, Trainer
from bp_core.training.watching.watch import Watch
from bp_data.example import Example, Turn

spent = [0.0]


def counted(name: str) -> None:
    """Count the CPU seconds of a method of the watch."""
    plain = getattr(Watch, name)

    def timed(self: Watch, *args: object) -> None:
        began = time.process_time()
        plain(self, *args)
        spent[0] += time.process_time() - began

    setattr(Watch, name, timed)


class Marks(Callback):
    """CPU seconds between the first and the last step."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None
        self.last = (0.0, 0.0)

    def on_step(self, info: StepInfo) -> None:
        self.last = (time.process_time(), spent[0])
        self.first = self.first or self.last


def main() -> None:
    """Train and print the share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    for name in ("before_update", "after_step"):
        counted(name)
    rows = [Example(f"p:{i}", "p", i + 1, "prompt", (Turn("user", f"What is {i}?"),)) for i in range(20)]
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"method": "grpo", "rewards": "length_in_range", "max_completion_length": 24, "preview": 0}
        quiet = {"eval_steps": 0, "save_steps": 0, "heldout_ratio": 0.0, "tell": lambda _: None}
        Trainer("tiny", output=Path(folder), callbacks=[marks], **settings, **quiet).train(rows, steps=steps)
    assert marks.first is not None
    whole, watching = (b - a for a, b in zip(marks.first, marks.last, strict=True))
    print(
        f"watching {watching:.3f} of {whole:.3f} CPU seconds over {steps - 1} steps: {watching / whole:.2%}"
    )


if __name__ == "__main__":
    main()
