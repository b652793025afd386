"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): learning from single judgements.

With r = log π(answer) − log ρ(answer) for the model π and the reference ρ (the model before the first update), and K the
mean of the same difference over answers that belong to *other* prompts, no less than 0 and without gradient:

    desirable     λ_D · (1 − σ(β·(r − K)))
    undesirable   λ_U · (1 − σ(β·(K − r)))

The loss of a step is the mean over its rows. K is a figure of the whole step: it is measured first, over the same
micro-batches, so that 8 = 4×2 = 1×8 holds.

- A unit has two pieces: the prompt with its own answer, which is learnt, and with the next row's, which K is measured on.
- A preference pair gives two units, one desirable and one undesirable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from bp_data.example import Example, Rejected, Turn

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.refusals import rejected
from bp_core.encoding.tokens import Tokens, Unit
from bp_core.training.batch import MicroBatch
from bp_core.training.objectives.base import Forward, Objective, Terms

DESIRABLE = "desirable"  # column: 1 where the answer is wanted, else 0
METRICS: Mapping[str, str] = {
    "rewards_chosen": "desirable",
    "rewards_rejected": "undesirable",
    "rewards_accuracy": "units",
    "logps_chosen": "desirable",
    "logps_rejected": "undesirable",
    "kl": "once",
}
TRIES = 5  # following rows whose answer is tried behind a prompt before the row is refused


def kto_loss(
    ratio: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor,
    *,
    beta: float,
    weights: tuple[float, float],
) -> torch.Tensor:
    """Loss of each row.

    Args:
        ratio: log π − log ρ of its answer, fp32 (rows,).
        desirable: 1 or 0, fp32 (rows,).
        kl: K of the step, fp32 scalar ≥ 0 without gradient.
        beta: strength of the tie to the reference, > 0.
        weights: (λ_D, λ_U).

    Returns:
        fp32 (rows,).

    Example:
        Before the first update r = K = 0: each row's loss is half its weight.
    """
    sign = 2 * desirable - 1
    weight = torch.where(desirable > 0, weights[0], weights[1])
    return weight * (1 - torch.sigmoid(beta * sign * (ratio - kl)))


def balanced_weights(desirable: int, undesirable: int) -> tuple[float, float]:
    """(λ_D, λ_U) for which λ_D·n_D : λ_U·n_U lies between 1:1 and 4:3, as the paper advises; the scarce side is raised.

    Example:
        100 desirable and 200 undesirable rows give (2, 1); 400 and 100 give (1, 3), which is 4:3.
    """
    if not desirable or not undesirable:
        return 1.0, 1.0
    if desirable < undesirable:
        return undesirable / desirable, 1.0
    return 1.0, max(1.0, desirable / (undesirable * 4 / 3))


def label_counts(tokens: Tokens) -> tuple[int, int]:
    """Desirable and undesirable units."""
    wanted = np.asarray(tokens.columns[DESIRABLE])[:: tokens.width]
    return int(wanted.sum()), int(len(wanted) - wanted.sum())


class Kto(Objective):
    """Learns from answers judged one by one.

    Args:
        beta: strength of the tie to the reference.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """

    name = "kto"
    kinds = ("unpaired", "preference")
    width = 2
    measured = (1,)
    statistics = ("kl",)
    learnt = (0,)
    reference = True
    metrics = METRICS

    def __init__(
        self, *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
    ) -> None:
        self.beta, self.weights = beta, (desirable_weight, undesirable_weight)

    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """(own answer, another row's answer) of each judged row; a refusal for the others."""
        judged: list[_Judged] = []
        for example in examples:
            parts = list(_judged(example))
            if not parts:
                yield rejected(
                    example,
                    "wrong_kind",
                    f"a {example.kind} row holds no judged answer; kto takes an answer with a label, or a pair",
                )
            judged += parts
        own = list(encoder.encode_each(row.with_answer(row.answer) for row in judged))
        good = [i for i, pieces in enumerate(own) if _single(pieces) is not None]
        mates, refused = _mates(encoder, [judged[i] for i in good])
        place_of = {i: place for place, i in enumerate(good)}
        for i, row in enumerate(judged):
            mine, place = _single(own[i]), place_of.get(i, -1)
            if mine is None:
                yield _refusal(row.example, own[i])
            elif place not in mates:
                yield _refusal(row.example, refused[place])
            else:
                values = {DESIRABLE: float(row.desirable)}
                yield (
                    dataclasses.replace(mine, values=values),
                    dataclasses.replace(mates[place], values=values),
                )

    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """The rows of the step, and how many of them are desirable."""
        desirable = sum(unit[0].values[DESIRABLE] for unit in units)
        return {"units": len(units), "desirable": desirable, "undesirable": len(units) - desirable, "once": 1}

    def statistic(
        self, forward: Forward, batch: MicroBatch, per: Mapping[str, float]
    ) -> Mapping[str, torch.Tensor]:
        """The micro-batch's share of the mean difference over answers of other prompts."""
        ratio = batch.sum_by_piece(forward.log_probs(batch)) - batch.values["reference"]
        return {"kl": ratio.sum() / per["units"]}

    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, Any]) -> Terms:
        """Summed loss over the step's rows, and what they look like."""
        policy = batch.sum_by_piece(forward.log_probs(batch))  # (rows,)
        ratio, desirable = policy - batch.values["reference"], batch.values[DESIRABLE]
        kl = torch.as_tensor(per["kl"], device=ratio.device).clamp(min=0)
        losses = kto_loss(ratio, desirable, kl, beta=self.beta, weights=self.weights)
        with torch.no_grad():
            rewards = self.beta * ratio
            right = (torch.sign(ratio - kl) == 2 * desirable - 1).float() + 0.5 * (ratio == kl).float()
            told = {
                "rewards_chosen": (rewards * desirable).sum(),
                "rewards_rejected": (rewards * (1 - desirable)).sum(),
                "rewards_accuracy": right.sum(),
                "logps_chosen": (policy * desirable).sum(),
                "logps_rejected": (policy * (1 - desirable)).sum(),
                "kl": kl * batch.pieces / per["units"],
            }
        return Terms(losses.sum() / per["units"], told)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """A prompt, an answer, and whether it is wanted."""

    example: Example
    prompt: tuple[Turn, ...]
    answer: tuple[Turn, ...]
    desirable: bool

    def with_answer(self, answer: tuple[Turn, ...]) -> Example:
        """The prompt as a chat that ends with `answer`, which alone is taught."""
        context = tuple(dataclasses.replace(turn, train=False) for turn in self.prompt)
        taught = tuple(
            dataclasses.replace(turn, train=True) if turn.role == "assistant" else turn for turn in answer
        )
        return dataclasses.replace(
            self.example, kind="chat", turns=(*context, *taught), chosen=(), rejected=(), label=None
        )


def _judged(example: Example) -> Iterator[_Judged]:
    if example.kind == "unpaired":
        yield _Judged(example, example.turns[:-1], example.turns[-1:], bool(example.label))
    elif example.kind == "preference":
        yield _Judged(example, example.turns, example.chosen, True)
        yield _Judged(example, example.turns, example.rejected, False)


def _mates(
    encoder: Encoder, rows: Sequence[_Judged]
) -> tuple[dict[int, Encoded], dict[int, Sequence[Encoded | Rejected]]]:
    """Each row's prompt with the answer of the first row after it, around the end, with which it is a single piece.

    Returns:
        (those pieces by the place of their row, what the first attempt gave where it was no single piece).
    """
    mates: dict[int, Encoded] = {}
    refused: dict[int, Sequence[Encoded | Rejected]] = {}
    for step in range(1, TRIES + 1):
        waiting = [place for place in range(len(rows)) if place not in mates]
        tried = encoder.encode_each(
            rows[place].with_answer(rows[(place + step) % len(rows)].answer) for place in waiting
        )
        for place, pieces in zip(waiting, tried, strict=True):
            if (mate := _single(pieces)) is not None:
                mates[place] = mate
            else:
                refused.setdefault(place, pieces)
    return mates, refused


def _single(pieces: Sequence[Encoded | Rejected]) -> Encoded | None:
    """The one piece of a row that gave just that."""
    return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], Encoded) else None


def _refusal(example: Example, pieces: Sequence[Encoded | Rejected]) -> Rejected:
    refused = next((p for p in pieces if isinstance(p, Rejected)), None)
    return refused or rejected(
        example,
        "pair_split",
        "the chat template rewrites earlier turns, so that the answer is no single piece; keep one assistant turn in it",
        "turns",
    )
