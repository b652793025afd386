"""Time of writing a checkpoint against the time of writing the same bytes durably.

Claim: at most twice.

    python benchmarks/checkpoint.py --megabytes 400 --repeat 5
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bp_core.training import checkpoint
from bp_core.training.state import save_state


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    count = args.megabytes * 1_000_000 // 4 // 3
    weights, state = torch.randn(count), {"avg": torch.randn(count), "square": torch.randn(count)}
    raw = memoryview(torch.cat([weights, *state.values()]).numpy()).cast("B")

    def fill(folder: Path) -> None:
        save_state(folder, "optimizer", state)
        save_state(folder, "weights", {"w": weights})

    ratios, ours, plain = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for i in range(args.repeat + 1):
            began = time.perf_counter()
            with (root / "raw").open("wb", buffering=0) as file:
                file.write(raw)
                os.fsync(file.fileno())
            middle = time.perf_counter()
            checkpoint.write(root, i + 1, fill)
            end = time.perf_counter()
            checkpoint.retain(root, last=1)
            if i:  # the first round warms the disk
                plain.append(middle - began)
                ours.append(end - middle)
                ratios.append((end - middle) / (middle - began))
    print(
        f"{len(raw) / 1e6:.0f} MB: bytes {statistics.median(plain):.2f} s, checkpoint {statistics.median(ours):.2f} s, ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
