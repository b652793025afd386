"""The steps as a data set, their cut into forward passes, and the tensors of one of them.

- Right padding needs no attention mask in a causal model: no real position can see a later one.
- Packed rows carry positions that restart at 0, by which attention keeps the pieces apart.
- A unit is never cut: the pieces of a pair share a forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from bp_core.encoding.steps import StepPlan
from bp_core.encoding.tokens import Tokens, Unit


class StepData(Dataset[list[Unit]]):
    """One item a step: its units. Picklable, so that loader processes may be spawned."""

    def __init__(self, tokens: Tokens, plan: StepPlan, steps: int) -> None:
        self.tokens, self.plan, self.steps = tokens, plan, steps
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Unit]:
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.plan.epoch(epoch))
        return [self.tokens.unit(int(i)) for i in self._epoch[1][within]]


@dataclasses.dataclass
class MicroBatch:
    """Tensors of one forward pass over P pieces.

    Args:
        input_ids: int64 (B, T), right-padded.
        position_ids: int64 (B, T) of packed rows, else None.
        bounds: int32 (pieces + 1,) of packed rows: where each begins, and the end; else None.
        longest: of them, in tokens.
        where: flat positions (b·T + t) whose next token is a label, int64 (labels,).
        targets: those next tokens, int64 (labels,).
        piece: the piece of each label, int64 (labels,) in [0, P).
        values: the columns of the pieces, float32 (P,) each.
        pieces: P; the pieces of a unit follow each other.
        tokens: real tokens, padding left out.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    bounds: torch.Tensor | None
    longest: int
    where: torch.Tensor
    targets: torch.Tensor
    piece: torch.Tensor
    values: dict[str, torch.Tensor]
    pieces: int
    tokens: int

    def to(self, device: torch.device) -> MicroBatch:
        """The batch on `device`; to a card by pinned memory, without waiting."""
        if device.type != "cuda":
            return self

        def moved(t: torch.Tensor) -> torch.Tensor:
            return t.pin_memory().to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            input_ids=moved(self.input_ids),
            position_ids=None if self.position_ids is None else moved(self.position_ids),
            bounds=None if self.bounds is None else moved(self.bounds),
            where=moved(self.where),
            targets=moved(self.targets),
            piece=moved(self.piece),
            values={k: moved(v) for k, v in self.values.items()},
        )

    def sum_by_piece(self, numbers: torch.Tensor) -> torch.Tensor:
        """Sum what belongs to each label over its piece: (labels,) → (P,), fp32."""
        total = torch.zeros(self.pieces, dtype=torch.float32, device=numbers.device)
        return total.index_add(0, self.piece, numbers.float())

    @property
    def labels_by_piece(self) -> torch.Tensor:
        """Labels of each piece, float32 (P,)."""
        return self.sum_by_piece(torch.ones_like(self.piece, dtype=torch.float32))


def micro_batches(units: Sequence[Unit], size: int, *, packed: int = 0) -> list[list[Unit]]:
    """Cut the units of a step into forward passes: `size` units each, or packed rows of at most `packed` tokens.

    A packed row never holds more than `size` units, so that halving `size` halves memory there too. A unit that is
    longer than `packed` has a row of its own.
    """
    if not packed:
        return [list(units[i : i + size]) for i in range(0, len(units), size)]
    rows: list[list[Unit]] = []
    room: list[int] = []
    for unit in units:  # longest first: first-fit decreasing
        length = sum(len(piece.ids) for piece in unit)
        for k, free in enumerate(room):
            if length <= free and len(rows[k]) < size:
                rows[k].append(unit)
                room[k] -= length
                break
        else:
            rows.append([unit])
            room.append(packed - length)
    return rows


def bucket(length: int) -> int:
    """The next of a few lengths: 64, then four to each power of two.

    >>> [bucket(n) for n in (3, 64, 65, 100, 128, 129, 1000, 1025)]
    [64, 64, 80, 112, 128, 160, 1024, 1280]
    """
    if length <= 64:
        return 64
    part = 1 << ((length - 1).bit_length() - 3)
    return -(-length // part) * part


def collate(units: Sequence[Unit], pad_id: int, *, packed: bool = False, buckets: bool = False) -> MicroBatch:
    """Tensors of one forward pass over `units`: a padded batch of their pieces, or one packed row.

    Args:
        units: of one or more pieces.
        pad_id: filler.
        packed: one row, in which the filler is a piece of its own.
        buckets: rows are filled up to one of a few lengths (`bucket`).
    """
    pieces = [piece for unit in units for piece in unit]
    count = sum(len(p.ids) for p in pieces)
    position_ids = bounds = None
    longest = 0
    if packed:
        lengths = [len(p.ids) for p in pieces]
        filler = bucket(count) - count if buckets else 0
        empty = np.zeros(filler, np.int64)
        ids = np.concatenate([*(p.ids for p in pieces), empty + pad_id]).astype(np.int64)[None]
        masks = [np.concatenate([[0], p.mask[1:]]) for p in pieces]
        mask = np.concatenate([*masks, empty]).astype(bool)[None]
        lengths += [filler] if filler else []
        positions = [np.arange(n, dtype=np.int64) for n in lengths]
        position_ids = torch.from_numpy(np.concatenate(positions)[None])
        bounds = torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))
        longest = max(lengths)
    else:
        width = max(len(p.ids) for p in pieces)
        width = bucket(width) if buckets else width
        ids = np.full((len(pieces), width), pad_id, np.int64)
        mask = np.zeros((len(pieces), width), bool)
        for row, p in enumerate(pieces):
            ids[row, : len(p.ids)] = p.ids
            mask[row, 1 : len(p.mask)] = p.mask[1:]
    # the position before each label; mask[:, 0] is never set
    where = np.flatnonzero(np.roll(mask.ravel(), -1))
    labels = [int(p.mask[1:].sum()) for p in pieces]
    return MicroBatch(
        torch.from_numpy(ids),
        position_ids,
        bounds,
        longest,
        torch.from_numpy(where),
        torch.from_numpy(ids.ravel()[where + 1]),
        torch.from_numpy(np.repeat(np.arange(len(pieces)), labels)),
        {
            name: torch.tensor([p.values[name] for p in pieces], dtype=torch.float32)
            for name in pieces[0].values
        },
        len(pieces),
        count,
    )
