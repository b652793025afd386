"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), and the losses that differ in one line.

With π and ρ the summed log-probabilities of an answer under the model and under the reference, and
h = (π_c − ρ_c) − (π_r − ρ_r) for a chosen answer c and a rejected one r of one prompt:

    sigmoid   −(1−ε)·log σ(βh) − ε·log σ(−βh)      ε: label smoothing (conservative DPO), 0 by default
    robust    (−(1−ε)·log σ(βh) + ε·log σ(−βh)) / (1−2ε)      unbiased under flipped labels (arXiv:2403.00409)
    hinge     max(0, 1 − βh)      (SLiC-HF, arXiv:2305.10425)
    ipo       (h̄ − 1/(2β))², h̄ with each π − ρ divided by the labels of its answer      (arXiv:2310.12036)

The loss of a step is the mean over its pairs.
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

LOSSES = ("sigmoid", "ipo", "hinge", "robust")


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    beta: float,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss of each pair.

    Args:
        chosen: π_c − ρ_c, fp32 (pairs,); for `ipo` divided by the labels of the chosen answer.
        rejected: π_r − ρ_r, likewise.
        beta: how far the model may move from the reference, > 0; larger is nearer.
        kind: one of `LOSSES`.
        label_smoothing: assumed share of flipped labels, in [0, 0.5); sigmoid and robust alone read it.

    Returns:
        fp32 (pairs,).

    Raises:
        ValueError: for another kind.

    Example:
        Before the first update chosen = rejected = 0: sigmoid and robust give ln 2 = 0.6931, hinge 1, and ipo with
        β = 0.1 gives (0 − 5)² = 25.
    """
    gap = chosen - rejected
    if kind == "sigmoid":
        return -(1 - label_smoothing) * F.logsigmoid(beta * gap) - label_smoothing * F.logsigmoid(-beta * gap)
    if kind == "robust":
        clean = -(1 - label_smoothing) * F.logsigmoid(beta * gap)
        return (clean + label_smoothing * F.logsigmoid(-beta * gap)) / (1 - 2 * label_smoothing)
    if kind == "hinge":
        return torch.relu(1 - beta * gap)
    if kind == "ipo":
        return (gap - 1 / (2 * beta)) ** 2
    raise ValueError(f"the loss must be one of {', '.join(LOSSES)}, not {kind!r}")


class Dpo(Objective):
    """Learns to prefer, against the model as it stood before the first update.

    Args:
        beta: strength of the tie to the reference.
        kind: one of `LOSSES`.
        label_smoothing: assumed share of flipped labels.
    """

    name = "dpo"
    kinds = ("preference",)
    width = 2
    learnt = (0, 1)
    reference = True
    metrics = METRICS

    def __init__(self, *, beta: float = 0.1, kind: str = "sigmoid", label_smoothing: float = 0.0) -> None:
        self.beta, self.kind, self.label_smoothing = beta, kind, label_smoothing

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
        policy = batch.sum_by_piece(forward.log_probs(batch))  # (2·pairs,)
        ratio = policy - batch.values["reference"]
        scores = ratio / batch.labels_by_piece.clamp(min=1) if self.kind == "ipo" else ratio
        losses = dpo_loss(
            scores[0::2],
            scores[1::2],
            beta=self.beta,
            kind=self.kind,
            label_smoothing=self.label_smoothing,
        )
        return Terms(losses.sum() / per["pairs"], pair_metrics(policy, self.beta * ratio))
