"""The whole dataset report, and its near-duplicate stage against rensa and datasketch on the same rows.

    uv run --no-project --with datasketch --with rensa --with ./packages/bp-data python benchmarks/report.py --rows 10000
    python benchmarks/report.py --rows 100000 --peers none
    python benchmarks/report.py --rows 1000000 --peers none   (1M rows, minutes)

Rows are synthetic prose of about 2 kB; a tenth have mutated copies, 1 % exact ones, 2 % are one-line answers. Each
stage runs in its own process, so that its peak memory is its own. Truth is every pair with word-trigram Jaccard >= 0.8,
from a 42 x 3 banded search with exact verification (a pair at 0.8 is missed with probability 1e-13).
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_rows(path: Path, rows: int) -> None:
    rng = random.Random(0)
    vocabulary = [
        "".join(rng.choice("etaoinshrdlucmfwypvbgk") for _ in range(rng.randint(2, 9))) for _ in range(30_000)
    ]
    weights = [1 / (i + 10) for i in range(len(vocabulary))]
    pool = rng.choices(vocabulary, weights, k=2_000_000)
    with path.open("w") as file:
        written, waiting = 0, []
        while written < rows:
            if waiting and rng.random() < 0.3:
                words = waiting.pop(rng.randrange(len(waiting)))
            elif rng.random() < 0.02:
                words = [rng.choice(["Yes.", "OK", "No.", "I do not know."])]
            else:
                low = rng.randrange(len(pool) - 1000)
                words = pool[low : low + rng.randint(200, 520)]
                rng.shuffle(words)
                if rng.random() < 0.1:
                    for _ in range(rng.randint(1, 4)):
                        rate = rng.choice([0.002, 0.01, 0.03, 0.06, 0.12])
                        waiting.append([rng.choice(vocabulary) if rng.random() < rate else w for w in words])
                if rng.random() < 0.01:
                    waiting.append(words)
            cut = max(1, len(words) // 4)
            row = {
                "messages": [
                    {"role": "user", "content": " ".join(words[:cut])},
                    {"role": "assistant", "content": " ".join(words[cut:]) or "ok"},
                ]
            }
            file.write(json.dumps(row) + "\n")
            written += 1


def texts(path: Path):
    import orjson

    with path.open("rb") as file:
        for line in file:
            yield "\n".join(m["content"] for m in orjson.loads(line)["messages"])


def fresh(path: Path, pairs: list):
    """Rows for the peers: copies and one-line answers, which spoil their buckets, are taken out beforehand."""
    first = {}
    for i, text in enumerate(texts(path)):
        known = first.setdefault(tuple(text.lower().replace(".", "").split()), i)
        if known != i:
            pairs.append((known, i))
        elif text.count(" ") > 20:
            yield i, text


def stage(name: str, path: Path, held: Path, out: Path) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    extra = {}
    if name == "orjson":
        extra["rows"] = sum(1 for _ in texts(path))
    elif name in ("report", "report+tokenizer"):
        from bp_data.report import report

        found = report(
            path, against=(str(held),), tokenizer=os.environ.get("BENCH_TOKENIZER") if "+" in name else None
        )
        extra = {"near": found.near_duplicate_rows, "exact": found.exact_duplicates, "verdict": found.verdict}
    elif name in ("near", "truth"):
        from bp_data import lsh, neardup

        if name == "truth":
            lsh.bands_for = lambda *_: (42, 3)
        found = neardup.near_duplicates(texts(path), 0.8, "word")
        pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
        extra = {"pairs": len(pairs), "candidates": found.candidates, "capped": found.capped_buckets}
        out.write_text(json.dumps(pairs))
    elif name == "rensa":
        from rensa import RMinHash, RMinHashLSH

        index, sketches, pairs = RMinHashLSH(0.8, 128, 16), {}, []
        for i, text in fresh(path, pairs):
            words = text.lower().split()
            sketch = RMinHash(128, 42)
            sketch.update([" ".join(words[k : k + 3]) for k in range(len(words) - 2)])
            pairs += [(j, i) for j in index.query(sketch) if sketches[j].jaccard(sketch) >= 0.8]
            index.insert(i, sketch)
            sketches[i] = sketch
        out.write_text(json.dumps(pairs))
    elif name == "datasketch":
        from datasketch import MinHash, MinHashLSH

        index, sketches, pairs = MinHashLSH(threshold=0.8, num_perm=128), {}, []
        for i, text in fresh(path, pairs):
            words = text.lower().split()
            sketch = MinHash(128)
            sketch.update_batch([" ".join(words[k : k + 3]).encode() for k in range(len(words) - 2)])
            pairs += [(j, i) for j in index.query(sketch) if sketches[j].jaccard(sketch) >= 0.8]
            index.insert(i, sketch)
            sketches[i] = sketch
        out.write_text(json.dumps(pairs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak_mb": peak, **extra}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--peers", default="rensa,datasketch", help="comma list, or none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bp-data-bench")
    parser.add_argument("--stage", nargs=4)
    args = parser.parse_args()
    if args.stage:
        stage(args.stage[0], *map(Path, args.stage[1:]))
        return
    args.folder.mkdir(exist_ok=True)
    path, held = args.folder / f"rows-{args.rows}.jsonl", args.folder / "held.jsonl"
    if not path.exists():
        write_rows(path, args.rows)
    with path.open() as file:
        held.write_text("".join(line for _, line in zip(range(500), file, strict=False)))
    peers = [] if args.peers == "none" else args.peers.split(",")
    names = ["orjson", "near", "report", *(["report+tokenizer"] if "BENCH_TOKENIZER" in os.environ else [])]
    names += [*peers, *(["truth"] if args.rows <= 100_000 else [])]
    results, pairs = {}, {}
    for name in names:
        out = args.folder / f"{name}.pairs"
        run = subprocess.run(
            [sys.executable, __file__, "--stage", name, str(path), str(held), str(out)],
            capture_output=True,
            text=True,
        )
        if run.returncode:
            print(f"{name}: {run.stderr.strip().splitlines()[-1]}")
            continue
        results[name] = json.loads(run.stdout)
        if name in ("near", "truth", *peers):
            pairs[name] = {tuple(sorted(p)) for p in json.loads(out.read_text())}
    print(f"{args.rows} rows, {path.stat().st_size / 1e6:.0f} MB")
    print(
        f"{'stage':18}{'wall s':>9}{'CPU s':>9}{'rows/CPU s':>12}{'peak MB':>9}{'x orjson':>10}{'recall':>9}{'precision':>11}"
    )
    for name, r in results.items():
        quality = ""
        if "truth" in pairs and name in pairs:
            good = len(pairs[name] & pairs["truth"])
            quality = f"{good / max(1, len(pairs['truth'])):9.3f}{good / max(1, len(pairs[name])):11.3f}"
        print(
            f"{name:18}{r['wall']:9.2f}{r['cpu']:9.2f}{args.rows / r['cpu']:12.0f}{r['peak_mb']:9.0f}{r['cpu'] / results['orjson']['cpu']:10.1f}{quality}"
        )
    for peer in peers:
        if peer in results:
            print(
                f"near-duplicate stage against {peer}: {results[peer]['cpu'] / results['near']['cpu']:.1f} x less CPU time"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
