"""Simple preference optimisation (Meng, Xia & Chen 2024, arXiv:2405.14734): no reference model.

The reward of an answer is β times the mean log-probability of its labels, so that length does not pay:

    loss = mean over pairs of −log σ(β·mean log π(chosen) − β·mean log π(rejected) − γ)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.tokens import Unit
from bp_core.training.batch import MicroBatch
from bp_core.training.objectives.base import Forward, Objective, Terms
from bp_core.training.objectives.pairs import METRICS, encode_pairs, pair_metrics


def simpo_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, *, beta: float = 2.0, gamma: float = 1.0
) -> torch.Tensor:
    """Loss of each pair.

    Args:
        chosen: mean log-probability of the chosen answer's labels, fp32 (pairs,).
        rejected: likewise.
        beta: scale of the rewards, > 0.
        gamma: margin that the chosen reward should have, ≥ 0.

    Returns:
        fp32 (pairs,).

    Example:
        Where both are alike and γ = 1 the loss is −log σ(−1) = 1.3133.
    """
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


class Simpo(Objective):
    """Learns to prefer by length-normalised likelihood, with a margin.

    Args:
        beta: scale of the rewards.
        gamma: margin between them.
    """

    name = "simpo"
    kinds = ("preference",)
    width = 2
    learnt = (0, 1)
    metrics = METRICS

    def __init__(self, *, beta: float = 2.0, gamma: float = 1.0) -> None:
        self.beta, self.gamma = beta, gamma

    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """(chosen, rejected) of each pair."""
        return encode_pairs(encoder, examples)

    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """The pairs of the step."""
        return {"pairs": len(units)}

    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, Any]) -> Terms:
        """Summed loss over the step's pairs, and what the pairs look like."""
        means = batch.sum_by_piece(forward.log_probs(batch)) / batch.labels_by_piece.clamp(min=1)
        losses = simpo_loss(means[0::2], means[1::2], beta=self.beta, gamma=self.gamma)
        return Terms(losses.sum() / per["pairs"], pair_metrics(means, self.beta * means))
