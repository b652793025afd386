"""The reference of preference methods: log-probabilities of the model as it stood before the first update.

- One way for every method and initialisation: the pairs that the plan visits and the held-out ones are measured once,
  without dropout, with the adapter in place and before it moves (switching an adapter off is another model wherever
  its initialisation changed the base weights). No second model is held.
- The figures are stored beside the tokens; a resumed run reads them, so that its reference stays the step-0 model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bp_merge.common import BpError

from bp_core.encoding.tokens import Tokens
from bp_core.training.step import StepTrainer

COLUMN = "reference"


def without_reference(tokens: Tokens) -> Tokens:
    """`tokens` with a column of zeros, for a pass whose figures nobody reads."""
    return tokens.with_column(COLUMN, np.zeros(tokens.pieces))


def with_reference(trainer: StepTrainer | None, tokens: Tokens, units: np.ndarray, folder: Path) -> Tokens:
    """`tokens` with the column of reference log-probabilities, computed and stored in `folder` unless it is there.

    Args:
        trainer: with the model as it stands before the first update; None where that moment has passed.
        tokens: as stored in `folder`.
        units: those that will be needed; the others get NaN, which no loss survives unseen.
        folder: of the tokens in the run's directory.

    Raises:
        BpError: `STATE_TOKENS_MISSING` where the column is gone and cannot be made again.
    """
    if COLUMN in tokens.columns or not len(tokens):
        return tokens
    if trainer is None:
        raise BpError(
            "STATE_TOKENS_MISSING",
            f"{folder} has lost the log-probabilities of the model before the first step",
            f"start again: backprop replay {folder.parent.parent.name}",
        )
    measured = tokens.with_column(COLUMN, trainer.reference(tokens, units))
    if trainer.ranks.first:
        measured.save_columns(folder)
    return measured
