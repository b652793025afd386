"""The two gates of a session: does a run pull against what was merged, and did the merge make held-out rows worse.

- The drift gate looks at weights alone. The evaluation gate looks at rows measured on the model in memory, before and
  after the merge, paired: it trips where the whole interval of a change lies beyond what is allowed (one-sided 95 %
  shared by loss and exact match), never by noise.
- No model is loaded, and no torch.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_core.evaluation.gates import Gate, judge
from bp_core.evaluation.metrics.base import Scores
from bp_core.settings.groups.session import SessionSettings

DRIFT, EVAL = "RUNTIME_DRIFT_GATE_TRIPPED", "RUNTIME_EVAL_GATE_REGRESSED"


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether a run joins the result.

    Args:
        accepted: whether it does.
        reason: the code of the gate that tripped, "" otherwise.
        message: one line for people.
        facts: figures.
    """

    accepted: bool
    reason: str
    message: str
    facts: dict[str, Any]


def by_drift(session: SessionSettings, cosine: float | None) -> Decision:
    """The drift gate's decision; `cosine` is None where nothing was merged before."""
    facts = {"cosine": cosine, "threshold": session.drift_threshold}
    if not session.drift_gate or cosine is None or cosine >= session.drift_threshold:
        return Decision(True, "", "", facts)
    told = (
        f"its change has a cosine of {cosine:.3f} to what was merged, less than {session.drift_threshold:g}"
    )
    return Decision(False, DRIFT, told, facts)


def by_evaluation(
    session: SessionSettings, before: dict[str, Scores] | None, after: dict[str, Scores] | None, seed: int
) -> Decision:
    """The evaluation gate's decision; None where there are no rows to judge by."""
    if not session.eval_gate or not before or not after:
        return Decision(True, "", "", {})
    gates = [Gate(name, max_regression=session.eval_max_regression) for name in before]
    verdict = judge(gates, after, before, seed=seed)
    facts = {
        o.gate.metric: {
            "before": o.comparison.baseline,
            "after": o.comparison.candidate,
            "delta": o.comparison.delta,
            "low": o.comparison.interval.low,
            "high": o.comparison.interval.high,
            "rows": o.comparison.n,
        }
        for o in verdict.outcomes
        if o.comparison is not None
    }
    blocked = [o for o in verdict.outcomes if o.blocks]
    told = "; ".join(f"{o.gate.metric}: {o.reason}" for o in blocked)
    return Decision(not blocked, EVAL if blocked else "", told, facts)
