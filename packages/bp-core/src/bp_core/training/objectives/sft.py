"""Supervised fine-tuning: cross-entropy of the taught tokens, a mean over the labels of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bp_data.example import Example, Rejected

from bp_core.encoding.encode import Encoded, Encoder
from bp_core.encoding.tokens import Unit, label_count
from bp_core.encoding.traces import TraceBand, within
from bp_core.training.batch import MicroBatch
from bp_core.training.objectives.base import Forward, Objective, Terms


class Sft(Objective):
    """−mean log p(label), over all labels of an optimizer step.

    Args:
        traces: keep only rows whose answers carry reasoning of such a length; None takes all rows.

    Example:
        Two units with 3 and 1 labels and log-probabilities (−1, −1, −1) and (−5): the loss is 8/4 = 2, not the mean of
        the units' means (3).
    """

    name = "sft"
    kinds = ("chat", "text")

    def __init__(self, *, traces: TraceBand | None = None) -> None:
        self.traces = traces

    def encode(
        self, encoder: Encoder, examples: Iterable[Example]
    ) -> Iterator[tuple[Encoded, ...] | Rejected]:
        """One piece a unit; a conversation that the template rewrites gives several."""
        if self.traces is not None:
            rows = list(within(encoder, examples, self.traces))
            yield from (row for row in rows if isinstance(row, Rejected))
            examples = [row for row in rows if not isinstance(row, Rejected)]
        for piece in encoder.encode(examples):
            yield piece if isinstance(piece, Rejected) else (piece,)

    def denominators(self, units: Sequence[Unit]) -> Mapping[str, float]:
        """The labels of the step."""
        return {"labels": label_count(units)}

    def terms(self, forward: Forward, batch: MicroBatch, per: Mapping[str, Any]) -> Terms:
        """Cross-entropy over the labels of the step."""
        return Terms(forward(batch) / per["labels"], {})
