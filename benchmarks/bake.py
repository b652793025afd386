"""Baking an adapter into a ~1 B checkpoint: time and peak memory against PEFT, and against copying the file.

Claims: at least twice as fast as `merge_and_unload` and `save_pretrained`, in a sixth of their memory. The copy is the
floor.

    python benchmarks/bake.py --repeat 3
    python benchmarks/bake.py --no-peft --repeat 5

- The model is Llama 3.2 1B's shape (1.24 B weights, bf16, random), the adapter LoRA of rank 16 on every linear layer;
  both are those of `benchmarks/export.py`.
- Each job is a process of its own, start and imports included; time is wall, memory the high-water mark of its resident
  set. The source lies in the page cache for all. Ours and the copy are flushed to the disk at their end; PEFT's files
  are flushed after its time is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from export import make_adapter, make_model, peft_merge
from merge_models import HEAD, measure, show


def ours(base: Path, adapter: Path, output: Path) -> None:
    from bp_merge.adapter import Adapter
    from bp_merge.bake import bake

    bake(base, [Adapter.load(adapter)], output)


def copy(base: Path, adapter: Path, output: Path) -> None:
    output.mkdir()
    for file in base.iterdir():
        shutil.copyfile(file, output / file.name)
    with (output / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())


def peft(base: Path, adapter: Path, output: Path) -> None:
    peft_merge(adapter, output)


JOBS = {"ours": ours, "copy": copy, "peft": peft}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "backprop-bench")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-peft", action="store_true")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        JOBS[given.job[0]](*map(Path, given.job[1:]))
        return
    base, adapter, output = (given.folder / n for n in ("b1", "b1-lora", "baked"))
    if given.write:
        make_model(base)
        make_adapter(adapter, base)
        return
    # a child starts with its parent's peak memory, so another process writes the model
    subprocess.run([sys.executable, __file__, "--write", "--folder", str(given.folder)], check=True)
    size = (base / "model.safetensors").stat().st_size
    with (base / "model.safetensors").open("rb") as file:  # into the page cache
        while file.read(1 << 20):
            pass
    results: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(given.repeat):
        for job in [j for j in JOBS if j != "peft" or not given.no_peft]:
            shutil.rmtree(output, ignore_errors=True)
            command = [sys.executable, __file__, "--job", job, str(base), str(adapter), str(output)]
            results.setdefault(job, []).append(measure(command))
    shutil.rmtree(output, ignore_errors=True)
    print(f"{size / 1e9:.2f} GB, median of {given.repeat}")
    print(HEAD)
    for job, rows in results.items():
        show(job, rows, results["ours"])


if __name__ == "__main__":
    main()
