"""Encoded pieces in flat arrays, the plan of optimizer steps over them, and the tensors of a micro-batch.

- The unit is the optimizer step: a fixed list of pieces that depends only on data, seed and step number. How it is
  cut into micro-batches (accumulation, memory, packing) never changes which pieces a step learns from, so that
  8, 4×2 and 1×8 follow one trajectory, a halved micro-batch continues it, and resuming needs only the step number.
- Pieces of similar length share a step («grouped»): shuffled, sorted within windows of 64 steps, steps shuffled.
- Right padding needs no attention mask in a causal model: no real position can see a later one.
- Packed rows carry positions that restart at 0, by which attention keeps the pieces apart.
- Arrays are written once into the run's folder and mapped by every later reader; no pickle.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from bp_core.encoding.encode import Encoded

Piece = tuple[np.ndarray, np.ndarray]  # ids, mask
WINDOW = 64  # steps whose pieces are sorted by length together


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Pieces end to end.

    Args:
        ids: token ids, int32 (tokens,).
        mask: 1 where the token is a label, uint8 (tokens,).
        offsets: start of each piece and the end of the last, int64 (pieces + 1,).
        source: index of the data source of each piece, int32 (pieces,).
        names: example id of each piece.
    """

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    source: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, int64 (pieces,)."""
        return np.diff(self.offsets)

    def piece(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask of piece `i`."""
        start, end = self.offsets[i], self.offsets[i + 1]
        return self.ids[start:end], self.mask[start:end]

    @classmethod
    def of(cls, pieces: Iterable[Encoded], sources: Sequence[int] | None = None) -> Tokens:
        """Lay pieces end to end."""
        pieces = list(pieces)
        lengths = np.array([len(p.ids) for p in pieces], np.int64)
        return cls(
            np.fromiter((i for p in pieces for i in p.ids), np.int32, int(lengths.sum())),
            np.frombuffer(b"".join(p.mask for p in pieces), np.uint8),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.zeros(len(pieces), np.int32) if sources is None else np.asarray(sources, np.int32),
            tuple(p.example_id for p in pieces),
        )

    @classmethod
    def of_pieces(cls, pieces: Sequence[Piece]) -> Tokens:
        """Lay (ids, mask) pairs end to end."""
        return cls.of(Encoded(tuple(int(i) for i in ids), mask.tobytes(), "") for ids, mask in pieces)

    def sample(self, count: int, seed: int) -> Tokens:
        """`count` pieces drawn by `seed`; all of them where there are no more, or `count` is 0."""
        if not count or count >= len(self):
            return self
        chosen = sorted(np.random.default_rng(seed).permutation(len(self))[:count].tolist())
        return Tokens.of(
            (
                Encoded(tuple(ids.tolist()), mask.tobytes(), self.names[i])
                for i, (ids, mask) in ((i, self.piece(i)) for i in chosen)
            ),
            [int(self.source[i]) for i in chosen],
        )

    def save(self, folder: Path) -> None:
        """Write the arrays into `folder`, which appears only when it is complete."""
        temporary = folder.with_name(folder.name + ".partial")
        temporary.mkdir(parents=True, exist_ok=True)
        for name in ("ids", "mask", "offsets", "source"):
            np.save(temporary / f"{name}.npy", getattr(self, name), allow_pickle=False)
        (temporary / "names.json").write_text(json.dumps(self.names), encoding="utf-8")
        temporary.replace(folder)

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """Map the arrays of `folder`."""
        arrays = [
            np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False)
            for n in ("ids", "mask", "offsets", "source")
        ]
        return cls(*arrays, tuple(json.loads((folder / "names.json").read_text(encoding="utf-8"))))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """Which pieces each optimizer step learns from.

    Args:
        lengths: tokens of each piece, int64 (pieces,).
        step_size: pieces of a step; the last step of an epoch may hold fewer.
        seed: of the order.
        grouped: group similar lengths.
        source: data source of each piece, int (pieces,), where the mix is weighted.
        weights: share of each source in an epoch; None takes every piece once.
    """

    lengths: np.ndarray
    step_size: int
    seed: int
    grouped: bool = True
    source: np.ndarray | None = None
    weights: tuple[float, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every piece is seen once (in a weighted mix: as many pieces as there are)."""
        return max(1, -(-len(self.lengths) // self.step_size))

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The steps of one epoch, each an int64 array of piece indices, longest first."""
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


class StepData(Dataset[list[tuple[np.ndarray, np.ndarray]]]):
    """One item a step: its pieces as (ids, mask). Picklable, so that loader processes may be spawned."""

    def __init__(self, tokens: Tokens, plan: StepPlan, steps: int) -> None:
        self.tokens, self.plan, self.steps = tokens, plan, steps
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.plan.epoch(epoch))
        return [self.tokens.piece(int(i)) for i in self._epoch[1][within]]


@dataclasses.dataclass
class MicroBatch:
    """Tensors of one forward pass.

    Args:
        input_ids: int64 (B, T), right-padded.
        position_ids: int64 (B, T) of packed rows, else None.
        where: flat positions (b·T + t) whose next token is a label, int64 (labels,).
        targets: those next tokens, int64 (labels,).
        tokens: real tokens, padding left out.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    where: torch.Tensor
    targets: torch.Tensor
    tokens: int

    def to(self, device: torch.device) -> MicroBatch:
        """The batch on `device`; to a card by pinned memory, without waiting."""
        if device.type != "cuda":
            return self

        def moved(t: torch.Tensor) -> torch.Tensor:
            return t.pin_memory().to(device, non_blocking=True)

        positions = None if self.position_ids is None else moved(self.position_ids)
        return MicroBatch(
            moved(self.input_ids), positions, moved(self.where), moved(self.targets), self.tokens
        )


def micro_batches(pieces: Sequence[Piece], size: int, *, packed: int = 0) -> list[list[Piece]]:
    """Cut the pieces of a step into forward passes: `size` pieces each, or packed rows of at most `packed` tokens.

    A packed row never holds more than `size` pieces, so that halving `size` halves memory there too.
    """
    if not packed:
        return [list(pieces[i : i + size]) for i in range(0, len(pieces), size)]
    rows: list[list[Piece]] = []
    room: list[int] = []
    for piece in pieces:  # longest first: first-fit decreasing
        length = len(piece[0])
        for k, free in enumerate(room):
            if length <= free and len(rows[k]) < size:
                rows[k].append(piece)
                room[k] -= length
                break
        else:
            rows.append([piece])
            room.append(packed - length)
    return rows


def collate(pieces: Sequence[Piece], pad_id: int, *, packed: bool = False) -> MicroBatch:
    """Tensors of one forward pass over `pieces`: a padded batch, or one packed row."""
    count = sum(len(ids) for ids, _ in pieces)
    position_ids = None
    if packed:
        ids = np.concatenate([ids for ids, _ in pieces]).astype(np.int64)[None]
        mask = np.concatenate([np.concatenate([[0], m[1:]]) for _, m in pieces]).astype(bool)[None]
        position_ids = torch.from_numpy(
            np.concatenate([np.arange(len(i), dtype=np.int64) for i, _ in pieces])[None]
        )
    else:
        width = max(len(ids) for ids, _ in pieces)
        ids = np.full((len(pieces), width), pad_id, np.int64)
        mask = np.zeros((len(pieces), width), bool)
        for row, (i, m) in enumerate(pieces):
            ids[row, : len(i)] = i
            mask[row, 1 : len(m)] = m[1:]
    where = np.flatnonzero(
        np.roll(mask.ravel(), -1)
    )  # the position before each label; mask[:, 0] is never set
    return MicroBatch(
        torch.from_numpy(ids),
        position_ids,
        torch.from_numpy(where),
        torch.from_numpy(ids.ravel()[where + 1]),
        count,
    )


def label_count(pieces: Iterable[Piece]) -> int:
    """Labels that the loss of these pieces averages over."""
    return int(sum(int(mask[1:].sum()) for _, mask in pieces))


def describe(tokens: Tokens) -> dict[str, Any]:
    """Counts for the run record."""
    lengths = tokens.lengths
    return {
        "pieces": len(tokens),
        "tokens": int(lengths.sum()),
        "labels": int(tokens.mask.sum()),
        "longest": int(lengths.max()) if len(lengths) else 0,
        "mean_length": round(float(lengths.mean()), 1) if len(lengths) else 0.0,
    }
