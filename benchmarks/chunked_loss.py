"""Peak memory and gradients of the chunked loss against full logits, at a vocabulary of 150,000.

Claim: the same loss and gradients to 1e-6, at least 4 times less peak memory.

    python benchmarks/chunked_loss.py

Each way runs in a process of its own; memory is that process's high-water mark above what it had before the loss.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
POSITIONS, VOCABULARY, WIDTH = 2048, 150_000, 512


def rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # MB


def one(way: str) -> None:
    import torch
    from bp_core.training.cross_entropy import chunked_cross_entropy, full_cross_entropy

    torch.manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5
    targets = torch.randint(0, VOCABULARY, (POSITIONS,))
    before, began = rss(), time.perf_counter()
    loss = (
        full_cross_entropy(hidden, weight, targets)
        if way == "full"
        else chunked_cross_entropy(hidden, weight, targets, chunk=256)
    )
    (loss / POSITIONS).backward()
    seconds, used = time.perf_counter() - began, rss() - before
    gradient = hidden.grad
    assert gradient is not None
    torch.save({"loss": loss.detach() / POSITIONS, "grad": gradient}, sys.argv[2])
    print(json.dumps({"mb": used, "seconds": seconds}))


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] in ("full", "chunked"):
        one(sys.argv[1])
        return
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for way in ("full", "chunked"):
            out = subprocess.run(
                [sys.executable, __file__, way, f"{folder}/{way}"], capture_output=True, text=True, check=True
            )
            made[way] = json.loads(out.stdout)
        full, chunked = (torch.load(f"{folder}/{way}", weights_only=True) for way in ("full", "chunked"))
    scale = full["grad"].abs().max()
    print(f"{POSITIONS} positions, vocabulary {VOCABULARY:,}, width {WIDTH}, fp32, forward and backward")
    for way in ("full", "chunked"):
        print(f"{way:8}  {made[way]['mb']:8.0f} MB  {made[way]['seconds']:6.1f} s")
    print(
        f"memory ratio full / chunked {made['full']['mb'] / made['chunked']['mb']:.1f}, time ratio {made['full']['seconds'] / made['chunked']['seconds']:.2f}"
    )
    print(
        f"loss differs by {abs(full['loss'] - chunked['loss']):.1e}, gradient by {((full['grad'] - chunked['grad']).abs().max() / scale):.1e} of its largest entry"
    )


if __name__ == "__main__":
    main()
