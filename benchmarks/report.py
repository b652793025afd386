"""The whole dataset report, and its near-duplicate stage against rensa, datasketch and datatrove on the same rows.

    uv run --no-project --with rensa --with datasketch --with "datatrove[processing]" --with ./packages/bp-data \
        python benchmarks/report.py --rows 10000 --repeat 3
    python benchmarks/report.py --rows 100000 --tokenizer model/tokenizer.json
    python benchmarks/report.py --rows 1000000 --peers none

- Rows are synthetic prose of about 2 kB; a tenth have mutated copies, 1 % exact ones, 2 % are one-line answers.
- Each stage is a process of its own, import included, so that its peak memory is its own; figures are medians.
- Truth is every pair with word-trigram Jaccard >= 0.8, from a 42 x 3 banded search with exact verification (a pair at
  0.8 is missed with probability 1e-13).
- The peers are spared what spoils their buckets: copies and one-line answers are taken out before they start. They
  use word trigrams too, their own defaults otherwise. datatrove links neighbours in a sorted bucket and unites them, so
  for it recall is the share of true pairs that end in one cluster, and precision that of its links that are true.
"""

import argparse
import json
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = 100_000
LETTERS = "etaoinshrdlucmfwypvbgk"


def write_rows(path: Path, rows: int) -> None:
    """The first 100,000 rows are made, the further ones are those in other letters: quick, and as unlike as strangers."""
    if rows > BASE:
        write_rows(path, BASE)
        lines = path.read_text().splitlines()
        with path.open("a") as file:
            for copy in range(1, -(-rows // BASE)):
                table = str.maketrans(LETTERS, LETTERS[copy:] + LETTERS[:copy])
                for line in lines[: rows - copy * BASE]:
                    turns = json.loads(line)["messages"]
                    told = [{**turn, "content": turn["content"].translate(table)} for turn in turns]
                    file.write(json.dumps({"messages": told}) + "\n")
        return
    rng = random.Random(0)
    vocabulary = ["".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 9))) for _ in range(30_000)]
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


def rensa(path: Path) -> list[tuple[int, int]]:
    from rensa import RMinHash, RMinHashLSH

    index, sketches, pairs = RMinHashLSH(0.8, 128, 16), {}, []
    for i, text in fresh(path, pairs):
        words = text.lower().split()
        sketch = RMinHash(128, 42)
        sketch.update([" ".join(words[k : k + 3]) for k in range(len(words) - 2)])
        pairs += [(j, i) for j in index.query(sketch) if sketches[j].jaccard(sketch) >= 0.8]
        index.insert(i, sketch)
        sketches[i] = sketch
    return pairs


def datasketch(path: Path) -> list[tuple[int, int]]:
    from datasketch import MinHash, MinHashLSH

    index, sketches, pairs = MinHashLSH(threshold=0.8, num_perm=128), {}, []
    for i, text in fresh(path, pairs):
        words = text.lower().split()
        sketch = MinHash(128)
        sketch.update_batch([" ".join(words[k : k + 3]).encode() for k in range(len(words) - 2)])
        pairs += [(j, i) for j in index.query(sketch) if sketches[j].jaccard(sketch) >= 0.8]
        index.insert(i, sketch)
        sketches[i] = sketch
    return pairs


def datatrove(path: Path) -> list[tuple[int, int]]:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupSignature
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        def word_tokenize(self, text):
            return text.split()

        def sent_tokenize(self, text):
            return [text]

        def span_tokenize(self, text):
            return [(0, len(text))]

    pairs, names = [], []

    def documents():
        for i, text in fresh(path, pairs):
            names.append(i)
            yield Document(text=text, id=str(i))

    config = MinhashConfig(n_grams=3)
    with tempfile.TemporaryDirectory() as folder:
        MinhashDedupSignature(f"{folder}/signatures", config, language=Split()).run(documents())
        for bucket in range(config.num_buckets):
            step = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
            step.run(None, bucket, config.num_buckets)
        for file in Path(folder, "buckets").glob("*.dups"):
            pairs += [(names[a], names[b]) for _, a, _, b in struct.iter_unpack("<4I", file.read_bytes())]
    return pairs


PEERS = {"rensa": rensa, "datasketch": datasketch, "datatrove": datatrove}


def stage(name: str, path: Path, held: Path, out: Path, tokenizer: str) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    extra = {}
    if name == "orjson":
        extra["rows"] = sum(1 for _ in texts(path))
    elif name in ("report", "report+tokenizer"):
        from bp_data import report

        found = report(path, against=(str(held),), tokenizer=Path(tokenizer) if "+" in name else None)
        extra = {"near": found.near_duplicate_rows, "exact": found.exact_duplicates, "verdict": found.verdict}
    elif name in ("near", "truth"):
        from bp_data.similarity import lsh, neardup

        if name == "truth":
            lsh.bands_for = lambda *_: (42, 3)
        found = neardup.near_duplicates(texts(path), 0.8, "word")
        pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
        extra = {"pairs": len(pairs), "candidates": found.candidates, "capped": found.capped_buckets}
    else:
        pairs = PEERS[name](path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 20 if sys.platform == "darwin" else 1024
    )
    figures = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "peak_mb": peak}
    if name in ("near", "truth", *PEERS):
        out.write_text(json.dumps(pairs))
    print(json.dumps({**figures, **extra}))


def quality(name: str, found: set[tuple[int, int]], truth: set[tuple[int, int]]) -> tuple[float, float]:
    """Recall and precision of pairs."""
    precision = len(found & truth) / max(1, len(found))
    if name != "datatrove":
        return len(found & truth) / max(1, len(truth)), precision
    root: dict[int, int] = {}

    def top(i: int) -> int:
        while (up := root.get(i, i)) != i:
            i = up
        return i

    for a, b in found:
        root[top(b)] = top(a)
    return sum(top(a) == top(b) for a, b in truth) / max(1, len(truth)), precision


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma list, or none")
    parser.add_argument("--tokenizer", default="", help="tokenizer.json for a report with exact token counts")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bp-data-bench")
    parser.add_argument("--keep", action="store_true", help="leave the rows for another run")
    parser.add_argument("--stage", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        name, path, held, out, tokenizer = args.stage
        stage(name, Path(path), Path(held), Path(out), tokenizer)
        return
    args.folder.mkdir(exist_ok=True)
    path, held = args.folder / f"rows-{args.rows}.jsonl", args.folder / "held.jsonl"
    if not path.exists():
        write_rows(path, args.rows)
    with path.open() as file:
        held.write_text("".join(line for _, line in zip(range(500), file, strict=False)))
    peers = [] if args.peers == "none" else args.peers.split(",")
    names = ["orjson", "near", "report", *(["report+tokenizer"] if args.tokenizer else [])]
    names += [*peers, *(["truth"] if args.rows <= 100_000 else [])]
    runs: dict[str, list[dict[str, float]]] = {}
    pairs = {}
    for name in names * args.repeat:
        out = args.folder / f"{name}.pairs"
        command = [sys.executable, __file__, "--stage", name, *map(str, (path, held, out)), args.tokenizer]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print(f"{name}: {run.stderr.strip().splitlines()[-1]}")
            continue
        runs.setdefault(name, []).append(json.loads(run.stdout.splitlines()[-1]))
        if out.exists():
            pairs[name] = {(min(p), max(p)) for p in json.loads(out.read_text())}
    results = {
        name: {key: statistics.median(run[key] for run in some) for key in ("wall", "cpu", "peak_mb")}
        for name, some in runs.items()
    }
    print(f"{args.rows} rows, {path.stat().st_size / 1e6:.0f} MB, median of {args.repeat}")
    print(
        f"{'stage':18}{'wall s':>9}{'CPU s':>9}{'rows/CPU s':>12}{'peak MB':>9}{'x orjson':>10}{'recall':>9}{'precision':>11}"
    )
    for name, r in results.items():
        told = ""
        if "truth" in pairs and name in pairs:
            recall, precision = quality(name, pairs[name], pairs["truth"])
            told = f"{recall:9.3f}{precision:11.3f}"
        ratio = r["cpu"] / results["orjson"]["cpu"]
        print(
            f"{name:18}{r['wall']:9.2f}{r['cpu']:9.2f}{args.rows / r['cpu']:12.0f}{r['peak_mb']:9.0f}{ratio:10.1f}{told}"
        )
    for peer in peers:
        if peer in results:
            ratio = results[peer]["cpu"] / results["near"]["cpu"]
            print(f"near-duplicate stage against {peer}: {ratio:.1f} x less CPU time")
    print(json.dumps(runs))
    if not args.keep:
        for file in (path, held, *args.folder.glob("*.pairs")):
            file.unlink()


if __name__ == "__main__":
    main()
