"""Metrics of answers to held-out rows, as an evaluation during training measures them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bp_data.example import Example
from bp_merge.common import BpError

from bp_core.encoding.encode import Encoder
from bp_core.evaluation.metrics import Case, score
from bp_core.evaluation.rows import drawn, rows_of
from bp_core.generation.answers import LocalModel
from bp_core.generation.prompts import Prompt
from bp_core.settings.groups.generation import GenerationSettings
from bp_core.settings.groups.training import TrainingSettings
from bp_core.training.watching.evaluators import value_name


class Answered:
    """Greedy answers to the same held-out rows, scored.

    Args:
        model: that is trained.
        encoder: of its tokenizer.
        examples: held out.
        training: settings.

    Raises:
        BpError: `CONFIG_CONFLICT` where no held-out row can be answered and scored.
    """

    def __init__(
        self, model: Any, encoder: Encoder, examples: Sequence[Example], training: TrainingSettings
    ) -> None:
        scored = [row for row in rows_of(examples) if row.scored]
        if not scored:
            raise BpError(
                "CONFIG_CONFLICT",
                "answers shall be measured, and no held-out row can be answered and scored",
                "leave --eval-metric out, or name rows with answers: --heldout FILE",
            )
        self.rows = drawn(scored, training.eval_answers, training.seed)
        self.metrics, self.local = training.eval_metrics, LocalModel(model, encoder)

    def __call__(self) -> Mapping[str, float]:
        """The figure of each metric now."""
        found = self.local.answer([Prompt(r.turns, r.tools, r.id) for r in self.rows], GenerationSettings())
        cases = [
            Case(answer.text, row.reference, row.context, row.id)
            for row, (answer,) in zip(self.rows, found, strict=True)
        ]
        return {value_name(name): scores.value for name, scores in score(cases, self.metrics).items()}
