"""Odds-ratio preference optimisation (Hong, Lee & Thorne 2024, arXiv:2403.07691): no reference model.

With p the geometric mean probability of an answer's labels, log p = (1/n)·Σ log π(label),

    loss = −mean over the labels of chosen answers of log π(label)            (the likelihood, on the answer alone)
           − β · mean over pairs of log σ(log odds(chosen) − log odds(rejected)),   log odds = log p − log(1 − p)
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

ORPO_METRICS: Mapping[str, str] = {**METRICS, "nll_loss": "labels", "log_odds_ratio": "pairs"}
CEILING = -1e-7  # nearest that a mean log-probability comes to 0, where the odds are infinite


def log_odds(mean_log_prob: torch.Tensor) -> torch.Tensor:
    """Log p − log(1 − p) of log p = `mean_log_prob`, fp32, each ≤ 0; finite everywhere.

    Example:
        p = 1/2 has even odds: log_odds(−0.6931) = 0.
    """
    x = mean_log_prob.clamp(max=CEILING)
    # log(1 − eˣ), by whichever form keeps its digits (Mächler 2012)
    log_rest = torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
    return x - log_rest


def odds_ratio_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """−log σ of the log odds ratio of each pair.

    Args:
        chosen: mean log-probability of the chosen answer's labels, fp32 (pairs,).
        rejected: likewise.

    Returns:
        fp32 (pairs,), ln 2 = 0.6931 where the two are alike.
    """
    return -F.logsigmoid(log_odds(chosen) - log_odds(rejected))


class Orpo(Objective):
    """Learns the chosen answers and, at the same time, that the rejected ones are less likely.

    Args:
        beta: weight of the odds-ratio term (λ in the paper).
    """

    name = "orpo"
    kinds = ("preference",)
    width = 2
    learnt = (0, 1)
    metrics = ORPO_METRICS

    def __init__(self, *, beta: float = 0.1) -> None:
        self.beta = beta

    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """(chosen, rejected) of each pair."""
        return encode_pairs(encoder, examples)

    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """The pairs of the step, and the labels of its chosen answers."""
        return {"pairs": len(units), "labels": sum(int(chosen.mask[1:].sum()) for chosen, _ in units)}

    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, Any]) -> Terms:
        """Likelihood of the chosen answers and the odds ratio."""
        sums = batch.sum_by_piece(forward.log_probs(batch))  # (2·pairs,)
        means = sums / batch.labels_by_piece.clamp(min=1)
        nll = -sums[0::2].sum()
        odds = odds_ratio_loss(means[0::2], means[1::2])
        loss = nll / per["labels"] + self.beta * odds.sum() / per["pairs"]
        told = {"nll_loss": nll.detach(), "log_odds_ratio": -odds.detach().sum()}
        return Terms(loss, {**pair_metrics(means, self.beta * means), **told})
