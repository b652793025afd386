"""The plan of optimizer steps: which units each step learns from.

- The unit of work is the optimizer step: a fixed list of units that depends only on data, seed and step number. How it
  is cut into micro-batches (accumulation, memory, packing) never changes what a step learns from, so that 8, 4×2 and
  1×8 follow one trajectory, a halved micro-batch continues it, and resuming needs only the step number.
- Units of similar length share a step («grouped»): shuffled, sorted within windows of 64 steps, steps shuffled.
"""

from __future__ import annotations

import dataclasses

import numpy as np

WINDOW = 64  # steps whose units are sorted by length together


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Which units each optimizer step learns from.

    Args:
        lengths: tokens of each unit, int64 (units,).
        step_size: units of a step; the last step of an epoch may hold fewer.
        seed: of the order.
        grouped: group similar lengths.
        source: data source of each unit, int (units,), where the mix is weighted.
        weights: share of each source in an epoch; None takes every unit once.
    """

    lengths: np.ndarray
    step_size: int
    seed: int
    grouped: bool = True
    source: np.ndarray | None = None
    weights: tuple[float, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every unit is seen once (in a weighted mix: as many units as there are)."""
        return max(1, -(-len(self.lengths) // self.step_size))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The steps of one epoch, each an int64 array of unit indices, longest first."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self._draw(rng)
        if self.grouped:
            window = WINDOW * self.step_size
            parts = [order[i : i + window] for i in range(0, len(order), window)]
            order = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in parts])
        steps = [order[i : i + self.step_size] for i in range(0, len(order), self.step_size)]
        steps = [step[np.argsort(-self.lengths[step], kind="stable")] for step in steps]
        return [steps[i] for i in rng.permutation(len(steps))] if self.grouped else steps

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        total = len(self.lengths)
        if self.weights is None or self.source is None:
            return rng.permutation(total)
        share = np.asarray(self.weights) / sum(self.weights)
        counts = np.floor(share * total).astype(int)
        counts[: total - counts.sum()] += 1
        drawn = []
        for k, count in enumerate(counts):
            own = np.flatnonzero(self.source == k)
            rounds = [rng.permutation(own) for _ in range(-(-count // max(1, len(own))))]
            drawn.append(np.concatenate(rounds)[:count] if rounds and len(own) else own)
        return rng.permutation(np.concatenate(drawn))

    def visited(self, steps: int) -> np.ndarray:
        """The units that the first `steps` steps learn from, sorted, each once; int64."""
        epochs = -(-steps // self.steps_per_epoch)
        seen = [part for e in range(epochs) for part in self.epoch(e)][:steps]
        return np.unique(np.concatenate(seen)) if seen else np.empty(0, np.int64)
