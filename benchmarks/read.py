"""Reading, detecting and validating a JSONL file, against parsing its lines with orjson and doing nothing else.

Claim: `bp_data.validate` (which reads and detects) takes at most four times as long as orjson alone.

    python benchmarks/read.py --rows 100000 --repeat 5

Each figure is one fresh process, import included; the peers take turns, and the table gives medians.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = 4096


def write(path: Path, rows: int, seed: int = 0) -> int:
    """Chats of about 2 kB with real line breaks, quotes and digits; returns the bytes written."""
    rng = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, range(26, 0, -1), k=rng.randint(1, 10))) for _ in range(WORDS)]
    words += [str(n) for n in range(200)] + ["$12", '"so"', "(3)", "4.5"]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            asked = " ".join(rng.choices(words, k=50)) + "?"
            told = ".\n".join(" ".join(rng.choices(words, k=25)) for _ in range(12)) + "."
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]
            file.write(json.dumps({"messages": turns}) + "\n")
    return path.stat().st_size


def run(what: str, path: str) -> None:
    """One measurement, printed as `wall cpu rss rows`."""
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "orjson":
        import orjson

        with open(path, "rb") as file:
            rows = sum(1 for line in file if orjson.loads(line) is not None)
    elif what == "read":
        import bp_data

        rows = sum(1 for _ in bp_data.read(path))
    else:
        import bp_data

        rows = bp_data.validate(path, max_errors=0).total_samples
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1 << 10
    )
    print(time.perf_counter() - wall, time.process_time() - cpu, rss, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(*args.run)
        return
    peers = ("orjson", "read", "read+detect+validate")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        size = write(path, args.rows)
        results: dict[str, list[list[float]]] = {peer: [] for peer in peers}
        for _ in range(args.repeat):
            for peer in peers:
                command = [sys.executable, __file__, "--run", peer, str(path)]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                results[peer].append([float(n) for n in out.split()])
    print(f"{args.rows} rows, {size / 1e6:.0f} MB, median of {args.repeat}")
    print(f"{'':24}{'wall s':>8}{'CPU s':>8}{'rows/s':>10}{'peak MB':>9}{'× orjson (CPU)':>16}")
    base = statistics.median(r[1] for r in results["orjson"])
    for peer in peers:
        wall, cpu, rss = (statistics.median(r[i] for r in results[peer]) for i in range(3))
        assert all(r[3] == args.rows for r in results[peer])
        print(f"{peer:24}{wall:8.2f}{cpu:8.2f}{args.rows / wall:10.0f}{rss:9.0f}{cpu / base:16.2f}")


if __name__ == "__main__":
    main()
