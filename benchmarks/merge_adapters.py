"""Merging adapters: time and peak memory against PEFT's `add_weighted_adapter`, on the same random adapters.

    python benchmarks/merge_adapters.py                    # 5 adapters of rank 64, one layer of a 7 B model
    python benchmarks/merge_adapters.py --only memory      # how memory grows with layers and adapters

- Shapes are Llama 2 7B's (4,096 and 11,008 wide), factors bf16; `svd` is measured on one 4,096 × 4,096 module, since PEFT
  decomposes the dense sum.
- Each measurement is a fresh process. Ours reads the files and merges; PEFT's is `add_weighted_adapter` alone, on loaded
  adapters. Neither time has the writing of the result. Peak memory is above what the imports take: ours of a call that
  writes its folder, PEFT's with its base weights never touched, so that they take none.
- `ties` and `dare_linear` of PEFT act on A and B apart, ours on ΔW in a shared basis: another, costlier thing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTH, HIDDEN = 4096, 11008
SHAPES = {
    **{f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"},
    **{f"mlp.{p}_proj": (HIDDEN, WIDTH) for p in ("gate", "up")},
    "mlp.down_proj": (WIDTH, HIDDEN),
}


def shapes(layers: int, one: bool) -> dict[str, tuple[int, int]]:
    if one:
        return {"layers.0.self_attn.q_proj": (WIDTH, WIDTH)}
    return {f"layers.{i}.{n}": s for i in range(layers) for n, s in SHAPES.items()}


def write(folder: Path, seed: int, rank: int, found: dict[str, tuple[int, int]]) -> None:
    import ml_dtypes
    import numpy as np
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (m, n) in found.items():
        for key, shape in (("lora_A", (rank, n)), ("lora_B", (m, rank))):
            values = rng.standard_normal(shape, np.float32) * 0.02
            tensors[f"base_model.model.{name}.{key}.weight"] = values.astype(ml_dtypes.bfloat16)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(found)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )


def run_ours(method: str, rank: int, adapters: list[str], found: dict[str, tuple[int, int]]) -> None:
    from bp_merge import Adapter, merge

    before, more = peak(), {"rank": rank} if method == "svd" else {}
    with tempfile.TemporaryDirectory(dir=Path(adapters[0]).parent) as folder:
        merge([Adapter.load(a) for a in adapters], method, output=Path(folder) / "out", **more)
    memory, started = peak() - before, time.perf_counter()
    merge([Adapter.load(a) for a in adapters], method, **more)
    print(time.perf_counter() - started, memory)


def run_peft(method: str, rank: int, adapters: list[str], found: dict[str, tuple[int, int]]) -> None:
    import peft
    import torch

    root = torch.nn.Module()
    for name, (m, n) in found.items():
        at = root
        *path, last = name.split(".")
        for step in path:
            if not hasattr(at, step):
                at.add_module(step, torch.nn.Module())
            at = getattr(at, step)
        layer = torch.nn.Linear(1, 1, bias=False)
        layer.weight = torch.nn.Parameter(torch.empty(m, n, dtype=torch.bfloat16), requires_grad=False)
        layer.in_features, layer.out_features = n, m
        at.add_module(last, layer)
    before = peak()
    model = peft.PeftModel.from_pretrained(root, adapters[0], adapter_name="0")
    for i, folder in enumerate(adapters[1:], 1):
        model.load_adapter(folder, adapter_name=str(i))
    names = [str(i) for i in range(len(adapters))]
    weights = [1 / len(adapters)] * len(adapters)
    more = {"svd_rank": rank} if method == "svd" else {"density": 0.2 if method == "ties" else 0.5}
    started = time.perf_counter()
    model.add_weighted_adapter(names, weights, "merged", combination_type=method, **more)
    print(time.perf_counter() - started, peak() - before)


def measure(side: str, method: str, rank: int, layers: int, adapters: list[Path]) -> tuple[float, float]:
    command = [sys.executable, __file__, "--run", side, method, "--rank", str(rank), "--layers", str(layers)]
    done = subprocess.run([*command, *map(str, adapters)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, memory = map(float, done.stdout.split()[-2:])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--adapters", type=int, default=5)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3, help="of ours; PEFT's svd runs once")
    parser.add_argument("--only", choices=["svd", "ties", "dare_linear", "memory"])
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        side, method = args.run
        found = shapes(args.layers, method == "svd")
        (run_ours if side == "ours" else run_peft)(method, args.rank, args.paths, found)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        methods = [m for m in ("svd", "ties", "dare_linear") if args.only in (None, m)]
        print(f"{args.adapters} adapters of rank {args.rank}, bf16")
        print(f"{'':28}{'ours s':>9}{'PEFT s':>9}{'PEFT / ours':>13}{'ours MB':>9}{'PEFT MB':>9}")
        for method in methods:
            folders = [root / method / str(i) for i in range(args.adapters)]
            for i, folder in enumerate(folders):
                write(folder, i, args.rank, shapes(args.layers, method == "svd"))
            ours, theirs = [], []
            for i in range(args.repeat):
                ours.append(measure("ours", method, args.rank, args.layers, folders))
                if method != "svd" or i == 0:
                    theirs.append(measure("peft", method, args.rank, args.layers, folders))
            (s, mb), (s2, mb2) = (
                tuple(statistics.median(x[k] for x in rows) for k in (0, 1)) for rows in (ours, theirs)
            )
            modules = 1 if method == "svd" else 7 * args.layers
            what = f"{method}, {modules} modules"
            print(f"{what:28}{s:9.2f}{s2:9.2f}{s2 / s:13.1f}{mb:9.0f}{mb2:9.0f}")
        if args.only in (None, "memory"):
            print(f"\n{'peak of ours, MB':28}{'1 layer':>9}{'3 layers':>9}")
            for count in (2, args.adapters):
                row = []
                for layers in (1, 3):
                    folders = [root / f"memory{count}-{layers}" / str(i) for i in range(count)]
                    for i, folder in enumerate(folders):
                        write(folder, i, args.rank, shapes(layers, False))
                    row.append(measure("ours", "task_arithmetic", args.rank, layers, folders)[1])
                print(f"{f'{count} adapters':28}{row[0]:9.0f}{row[1]:9.0f}")


if __name__ == "__main__":
    main()
