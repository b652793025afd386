"""Preference pairs: by how much, and how often, the chosen answer scores above the rejected one.

The prediction is `{"chosen": s, "rejected": s}`: two scores of the same kind (log-probability per token, reward). The
reference is not read. A score that is no finite number is refused, as it comes from us and not from a model's text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bp_core.evaluation.metrics.base import BadReferenceError, metric
from bp_core.evaluation.metrics.texts import kind_of

INFINITE = float("inf")


def _margin(prediction: Any) -> float:
    if not isinstance(prediction, Mapping):
        raise BadReferenceError(f"expected the scores {{chosen, rejected}}, not {kind_of(prediction)}")
    scores = [prediction.get(name) for name in ("chosen", "rejected")]
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise BadReferenceError(f"expected two finite scores {{chosen, rejected}}, not {str(score)[:40]}")
    return float(scores[0]) - float(scores[1])  # pyright: ignore[reportArgumentType]


@metric(
    "preference_margin",
    family="preference",
    source="DPO, arXiv:2305.18290 (rewards/margins)",
    low=-INFINITE,
    high=INFINITE,
)
def preference_margin(prediction: Any, reference: Any = None, context: Sequence[str] = ()) -> float:
    """Mean of score(chosen) − score(rejected), in the unit of the scores.

    Example: chosen -1.0, rejected -1.5 → 0.5.
    """
    return _margin(prediction)


@metric("win_rate", family="preference", source="DPO, arXiv:2305.18290 (rewards/accuracies); ties count half")
def win_rate(prediction: Any, reference: Any = None, context: Sequence[str] = ()) -> float:
    """Share of pairs whose chosen answer scores higher; a tie counts a half.

    Example: margins 0.5, -0.1, 0 → (1 + 0 + 0.5) / 3 = 0.5.
    """
    margin = _margin(prediction)
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0
