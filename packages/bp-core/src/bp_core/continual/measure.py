"""Held-out rows, measured on the model in memory: loss and exact match of each row in one forward pass.

- Greedy decoding gives the reference, token for token, exactly where every label is the most likely token after the
  labels before it. So exact match needs no generation.
- What is measured is the answer that is wanted: of a pair the chosen one, of rated answers those rated good.
- Rows are paired between two measurements by their id; a row cut into several units counts once.

Worked example: a row whose three labels have probabilities 0.5, 0.5 and 1 has a loss of (ln 2 + ln 2 + 0)/3 = 0.462;
it matches where each of the three is the largest of its position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bp_core.encoding.tokens import Tokens
from bp_core.evaluation.metrics.base import Array, Scores, mean, ratio
from bp_core.models.device import is_out_of_memory
from bp_core.models.generators import generators_kept
from bp_core.training.batch import collate
from bp_core.training.forward import LanguageLoss
from bp_core.training.objectives.kto import DESIRABLE


def per_label(stats: Array) -> Array:
    """(summed loss, labels) → mean loss of a label, in nats."""
    return ratio(stats[..., 0], stats[..., 1])


@dataclasses.dataclass(frozen=True)
class Measured:
    """Held-out rows of one task.

    Args:
        ids: of the rows.
        stats: float64 (rows, 3): summed loss in nats, labels, 1 where every label is the most likely token.
    """

    ids: tuple[str, ...]
    stats: np.ndarray

    @property
    def loss(self) -> float:
        """Mean over labels, nats."""
        return float(per_label(self.stats[:, :2].sum(axis=0)))

    @property
    def accuracy(self) -> float:
        """Share of rows that greedy decoding would answer as they are."""
        return float(self.stats[:, 2].mean())

    def scores(self) -> dict[str, Scores]:
        """As `evaluation.compare` takes them: `loss` and `exact_match`."""
        ones = np.ones(len(self.ids))
        return {
            "loss": Scores("loss", self.ids, self.stats[:, :2], per_label, "lower"),
            "exact_match": Scores("exact_match", self.ids, np.stack([self.stats[:, 2], ones], 1), mean),
        }

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """Several sets as one; ids say which set they are of."""
        ids = tuple(f"{k}:{id_}" for k, part in enumerate(parts) for id_ in part.ids)
        return cls(ids, np.concatenate([part.stats for part in parts]))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; every float reads back as it was."""
        return {"ids": list(self.ids), "stats": self.stats.tolist()}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Measured:
        """What `to_dict` gave."""
        return cls(tuple(data["ids"]), np.asarray(data["stats"], np.float64).reshape(-1, 3))


def wanted(tokens: Tokens) -> Tokens:
    """The pieces whose answer is wanted, as units of one piece."""
    pieces = np.arange(0, tokens.pieces, tokens.width)
    if DESIRABLE in tokens.columns:
        pieces = pieces[np.asarray(tokens.columns[DESIRABLE])[pieces] == 1]
    names = tuple(n for n in tokens.names for _ in range(tokens.width))
    flat = dataclasses.replace(
        tokens, width=1, columns={}, names=names, source=np.repeat(tokens.source, tokens.width)
    )
    return flat.take(pieces.tolist())


@torch.no_grad()
@generators_kept()
def measure(forward: LanguageLoss, tokens: Tokens, pad_id: int, size: int) -> Measured:
    """Loss and exact match of each row of `tokens`, without dropout; no logits are kept.

    Args:
        forward: of the model as it stands.
        tokens: of `wanted`.
        pad_id: filler.
        size: pieces of a forward pass; halved where memory runs out.
    """
    model = forward.model
    was_training = model.training
    model.eval()
    order = np.argsort(-tokens.lengths, kind="stable").tolist()
    found = np.zeros((len(tokens), 3))
    start = 0
    try:
        while start < len(order):
            chosen = order[start : start + size]
            try:
                batch = collate([tokens.unit(i) for i in chosen], pad_id).to(forward.device)
                log_probs, right = forward.judged(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size //= 2
                continue
            labels = batch.labels_by_piece
            hits = batch.sum_by_piece(right)
            rows = torch.stack([-batch.sum_by_piece(log_probs), labels, (hits == labels).float()], 1)
            found[chosen] = rows.cpu().numpy()
            start += len(chosen)
    finally:
        model.train(was_training)
    ids = tuple(dict.fromkeys(tokens.names))
    where = {name: i for i, name in enumerate(ids)}
    stats = np.zeros((len(ids), 3))
    stats[:, 2] = 1
    for name, row in zip(tokens.names, found, strict=True):
        at = stats[where[name]]
        at[:2] += row[:2]
        at[2] = min(at[2], row[2])
    return Measured(ids, stats)
