"""All merge methods on one toy problem, and what a sketch of the input moments keeps: a table and a figure.

    python benchmarks/merge_methods.py --figure docs/concepts/merge-methods.svg

- A task is a linear map ΔW* on inputs of its own covariance; its adapter is a LoRA of rank 8 (width 96) trained on it by
  Adam. The score of a merge is the part of ‖X·ΔW*‖² that it explains on each task's inputs, divided by what the task's own
  adapter explains, on the mean over tasks: 1 is as good as one adapter for each task, 0 is the base model.
- A bar is the method as it runs by default; the line beside it is what the best common factor of that merge would give.
- Tasks are unrelated and linear: the figure ranks methods on this problem, not on yours.
- `sketch` compares RegMean by sketches of k rows with RegMean by the full Gram matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from bp_merge.lowrank import LowRank
from bp_merge.method import Context, get_method, method_names
from bp_merge.moments import Sketch

WIDTH, RANK, TOKENS = 96, 8, 4096


class Task:
    """Inputs, a target, and the adapter that was trained on them."""

    def __init__(self, seed: int, steps: int = 400, width: int = WIDTH) -> None:
        rng = np.random.default_rng(seed)
        decay = np.where(np.arange(width) < 2 * RANK, 1.0, 0.15)
        turn, _ = np.linalg.qr(rng.normal(size=(width, width)))
        self.x = rng.normal(size=(TOKENS, width)) * decay @ turn.T
        u, _ = np.linalg.qr(rng.normal(size=(width, width)))
        self.target = u[:, :RANK] @ np.linalg.qr(turn[:, : 2 * RANK] @ rng.normal(size=(2 * RANK, RANK)))[0].T
        self.gram = self.x.T @ self.x
        self.total = float(np.sum((self.x @ self.target.T) ** 2))
        self.adapter = self._train(rng, steps, width)
        self.own = self.explained(self.adapter.dense())

    def _train(self, rng: np.random.Generator, steps: int, width: int) -> LowRank:
        a, b = rng.normal(size=(RANK, width)) / np.sqrt(width), np.zeros((width, RANK))
        gram = self.gram / TOKENS
        state = [np.zeros_like(p) for p in (a, a, b, b)]
        for i in range(1, steps + 1):
            error = (b @ a - self.target) @ gram  # (out, in)
            for p, g, m, s in ((a, b.T @ error, *state[:2]), (b, error @ a.T, *state[2:])):
                m += 0.1 * (g - m)
                s += 0.001 * (g * g - s)
                rate = 0.02 * (1 - i / (steps + 1))
                p -= rate * (m / (1 - 0.9**i)) / (np.sqrt(s / (1 - 0.999**i)) + 1e-8)
        return LowRank(b, a)

    def explained(self, delta: np.ndarray) -> float:
        rest = delta - self.target
        return 1 - float(np.sum((rest @ self.gram) * rest)) / self.total

    def best_factor(self, delta: np.ndarray) -> tuple[float, float]:
        """⟨XΔ, XΔ*⟩ and ‖XΔ‖², by total: explained(c·Δ) = 2c·first − c²·second."""
        moved = delta @ self.gram
        return float(np.sum(moved * self.target)) / self.total, float(np.sum(moved * delta)) / self.total


def score(tasks: list[Task], merged: LowRank) -> tuple[float, float]:
    """(as it is, with the best common factor), mean over tasks."""
    delta = merged.dense()
    plain = float(np.mean([t.explained(delta) / t.own for t in tasks]))
    dots, squares = zip(
        *((x / t.own, y / t.own) for t in tasks for x, y in [t.best_factor(delta)]), strict=True
    )
    dot, square = float(np.mean(dots)), float(np.mean(squares))
    return plain, dot * dot / square if square and dot > 0 else 0.0


def context(tasks: list[Task], moments: list[tuple[np.ndarray, np.ndarray]] | None = None) -> Context:
    found = tuple(moments or [(t.x, np.diag(t.gram)) for t in tasks])
    return Context("toy", tuple(map(str, range(len(tasks)))), moments=found)


def table(counts: list[int], seeds: int) -> dict[str, list[tuple[float, float]]]:
    rows: dict[str, list[tuple[float, float]]] = {}
    for n in counts:
        groups = [[Task(1000 * s + i) for i in range(n)] for s in range(seeds)]
        for name in method_names():
            if name == "slerp" and n != 2:
                rows.setdefault(name, []).append((float("nan"), float("nan")))
                continue
            found = [
                score(tasks, get_method(name)([t.adapter for t in tasks], None, context(tasks)))
                for tasks in groups
            ]
            rows.setdefault(name, []).append(
                (statistics.mean(f[0] for f in found), statistics.mean(f[1] for f in found))
            )
    return rows


def sketches(seeds: int, n: int = 4) -> None:
    groups = [[Task(1000 * s + i) for i in range(n)] for s in range(seeds)]
    print(f"\nRegMean at n = {n}, width {WIDTH}, {TOKENS} tokens: score by rows of the sketch")
    print(f"{'moments':>12}{'score':>9}{'kB a task':>11}{'of full G':>11}{'ms':>8}")
    full = 4 * WIDTH * WIDTH / 1e3
    for rows in (0, 4, 8, 16, 32, 64, 96, 192):
        found, spent = [], []
        for s, tasks in enumerate(groups):
            made = None
            if rows:
                made = []
                for i, t in enumerate(tasks):
                    sketch = Sketch(WIDTH, rows, seed=100 * s + i)
                    sketch.update(t.x)
                    made.append((sketch.sketch, sketch.diag))
            begun = time.perf_counter()
            merged = get_method("regmean")([t.adapter for t in tasks], None, context(tasks, made))
            spent.append(time.perf_counter() - begun)
            found.append(score(tasks, merged)[0])
        size = 4 * WIDTH * (rows + 1) / 1e3 if rows else full
        what = f"k = {rows}" if rows else "full G"
        print(
            f"{what:>12}{statistics.mean(found):9.3f}{size:11.1f}{size / full:11.2f}{1e3 * min(spent):8.1f}"
        )


def figure(rows: dict[str, list[tuple[float, float]]], counts: list[int], path: Path) -> None:
    """One panel for each number of tasks; bars sorted by the middle one."""
    names = sorted(rows, key=lambda n: -np.nan_to_num(rows[n][1][0], nan=-9.0))
    left, wide, high, gap = 128, 190, 17, 26
    width, height = left + len(counts) * (wide + gap) + 8, 64 + high * len(names) + 30
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="18" font-size="13" fill="#1c2733">How much of each task is left after merging, rank 8 adapters of unrelated tasks</text>',
    ]
    out += [
        f'<text x="{left - 8}" y="{64 + high * i + 12}" text-anchor="end" fill="#1c2733">{n}</text>'
        for i, n in enumerate(names)
    ]
    for panel, n in enumerate(counts):
        x0 = left + panel * (wide + gap)
        out.append(f'<text x="{x0}" y="42" fill="#1c2733" font-weight="bold">{n} tasks</text>')
        for tick in (0, 0.5, 1):
            x = x0 + wide * tick
            out.append(f'<line x1="{x}" x2="{x}" y1="58" y2="{60 + high * len(names)}" stroke="#d5dbe1"/>')
            out.append(
                f'<text x="{x}" y="54" text-anchor="middle" font-size="9" fill="#5b6b7a">{tick:g}</text>'
            )
        for i, name in enumerate(names):
            plain, best = rows[name][panel]
            y = 64 + high * i
            if np.isnan(plain):
                out.append(
                    f'<text x="{x0 + 4}" y="{y + 11}" font-size="9" fill="#5b6b7a">two adapters only</text>'
                )
                continue
            colour = "#b3541e" if name == "regmean" else "#2b6ca3"
            out.append(
                f'<rect x="{x0}" y="{y + 2}" width="{max(0.5, wide * max(plain, 0)):.1f}" height="11" fill="{colour}"/>'
            )
            x = x0 + wide * best
            out.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y + 1}" y2="{y + 14}" stroke="#1c2733" stroke-width="1.5"/>'
            )
    foot = height - 10
    out.append(
        f'<text x="8" y="{foot}" font-size="10" fill="#5b6b7a">1: as good as an adapter for each task; 0: the base model. '
        "Bar: defaults. Line: with the best common factor. regmean uses input moments, all others no data.</text>"
    )
    path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    counts = [2, 4, 8]
    rows = table(counts, given.seeds)
    print(f"{'':16}" + "".join(f"{f'n = {n}':>9}{'best':>8}" for n in counts))
    for name in sorted(rows, key=lambda n: -np.nan_to_num(rows[n][1][0], nan=-9.0)):
        print(f"{name:16}" + "".join(f"{p:9.3f}{b:8.3f}" for p, b in rows[name]))
    sketches(given.seeds)
    if given.figure:
        figure(rows, counts, given.figure)


if __name__ == "__main__":
    main()
