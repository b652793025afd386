"""What a training method is: an objective that the one step knows nothing else about.

- It takes some kinds of `Example` and encodes one into a unit: one piece, or the two of a pair.
- It names the denominator of each of its terms, counted over the whole optimizer step before any forward pass, so that
  a loss summed over micro-batches is the step's mean whatever the cut.
- It turns one micro-batch into a summed loss and summed metrics. It never sees the model but through `Forward`.
- Where it compares with a reference, that is the model as it stood before the first update: `reference` asks for the
  column of that name, the summed log-probability of each piece, computed once and stored with the tokens.
- Where it needs a statistic of the whole step before the loss (KTO's KL), `statistic` gives its summands, taken without
  gradient over the same micro-batches; else 8 = 4×2 = 1×8 could not hold.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.tokens import Unit
from bp_core.training.batch import MicroBatch


class Forward(Protocol):
    """A model as objectives see it."""

    def __call__(self, batch: MicroBatch) -> torch.Tensor:
        """fp32 scalar: cross-entropy summed over the labels."""
        ...

    def log_probs(self, batch: MicroBatch) -> torch.Tensor:
        """fp32 (labels,): log-probability of each label."""
        ...


class Terms(NamedTuple):
    """What one micro-batch adds to its step.

    Args:
        loss: fp32 scalar, already divided by the step's denominators; its gradient adds up over micro-batches.
        metrics: fp32 scalars, sums that the step divides by the denominators that `Objective.metrics` names.
    """

    loss: torch.Tensor
    metrics: Mapping[str, torch.Tensor]


class Objective(abc.ABC):
    """A training method.

    Attributes:
        name: of the method, as `--method` takes it.
        kinds: kinds of Example that it can learn from.
        width: pieces of a unit.
        learnt: the pieces of a unit that the loss is of.
        measured: the pieces that `statistic` is of; none where a method needs no statistic.
        statistics: the names that `statistic` gives.
        reference: whether the pieces need the column `reference`.
        metrics: its metrics beside the loss, each with the denominator that its sum is divided by.
    """

    name: str
    kinds: tuple[str, ...]
    width: int = 1
    learnt: tuple[int, ...] = (0,)
    measured: tuple[int, ...] = ()
    statistics: tuple[str, ...] = ()
    reference: bool = False
    metrics: Mapping[str, str] = {}

    @abc.abstractmethod
    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """Units of the examples; a row that cannot be learnt from is one `Rejected`."""

    @abc.abstractmethod
    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """What the terms and the metrics are divided by, over the whole step."""

    @abc.abstractmethod
    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, Any]) -> Terms:
        """Loss and metrics of one micro-batch of learnt pieces.

        Args:
            forward: the model.
            batch: the `learnt` pieces of some units of the step.
            per: the step's denominators, and its statistics as fp32 scalars on the device.
        """

    def statistic(
        self, forward: Forward, batch: MicroBatch, per: Mapping[str, float]
    ) -> Mapping[str, torch.Tensor]:
        """The share of one micro-batch of measured pieces in each statistic of the step, without gradient."""
        return {}
