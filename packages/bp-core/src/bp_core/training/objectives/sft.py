"""Supervised fine-tuning: cross-entropy of the taught tokens, a mean over the labels of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.tokens import Unit, label_count
from bp_core.training.batch import MicroBatch
from bp_core.training.objectives.base import Forward, Terms


class Sft:
    """−mean log p(label), over all labels of an optimizer step.

    Example:
        Two units with 3 and 1 labels and log-probabilities (−1, −1, −1) and (−5): the loss is 8/4 = 2, not the mean of
        the units' means (3).
    """

    name: str = "sft"
    kinds: tuple[str, ...] = ("chat", "text")
    width: int = 1
    reference: bool = False
    metrics: tuple[str, ...] = ()

    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """One piece a unit; a conversation that the template rewrites gives several."""
        for piece in encoder.encode(examples):
            yield piece if isinstance(piece, Rejected) else (piece,)

    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """The labels of the step."""
        return {"labels": label_count(units)}

    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, float]) -> Terms:
        """Cross-entropy over the labels of the step."""
        return Terms(forward(batch) / per["labels"], {})
