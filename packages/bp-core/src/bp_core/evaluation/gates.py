"""Gates: does a model stay as good as another, and as good as it must be; a conjunction over metrics.

- A gate on regression trips only where the loss is beyond noise: the whole paired interval lies below the allowed
  margin, at one-sided 95 %. Several gates share that 5 % (Bonferroni), so that a campaign of many metrics does not trip
  by chance. What does not trip is not proved equal: `detectable` says what the set could have shown.
- A gate on a threshold compares the figure itself; where the threshold lies inside the figure's interval, that is told.
- A required gate blocks. An optional one tolerates a shortfall up to `tolerate` (any, where none is given) and is told.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bp_merge.common import BpError

from bp_core.evaluation.compare import Comparison, Interval, compare, interval, size_warning
from bp_core.evaluation.metrics.base import Scores

ALPHA = 0.05  # false alarms of all gates together, where nothing changed


@dataclasses.dataclass(frozen=True)
class Gate:
    """What a model must keep.

    Args:
        metric: name.
        threshold: the figure must not be worse than this (at most this, where lower is better); None for none.
        max_regression: loss against the baseline that is allowed, in the metric's unit; None for no such gate.
        required: whether it blocks.
        tolerate: shortfall up to which an optional gate only warns; None for any.
    """

    metric: str
    threshold: float | None = None
    max_regression: float | None = 0.0
    required: bool = True
    tolerate: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_regression", "tolerate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be finite, not {self.threshold}")
        if self.required and self.tolerate is not None:
            raise ValueError("tolerate belongs to an optional gate (required = false)")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one gate.

    Args:
        gate: the gate.
        held: whether the metric kept what the gate asks.
        blocks: whether it stops the model.
        shortfall: by how much it fell short, in the metric's unit; 0 where it held.
        reason: one line for people.
        value: the figure.
        interval: of the figure.
        comparison: with the baseline, where there is one.
    """

    gate: Gate
    held: bool
    blocks: bool
    shortfall: float
    reason: str
    value: float
    interval: Interval
    comparison: Comparison | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """All gates together: the model passes where none blocks."""

    outcomes: tuple[Outcome, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no gate blocks."""
        return not any(o.blocks for o in self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "passed": self.passed,
            "gates": [dataclasses.asdict(o) for o in self.outcomes],
            "warnings": list(self.warnings),
        }

    def require(self) -> None:
        """Go on only where the model passes.

        Raises:
            BpError: `RUNTIME_EVAL_GATE_REGRESSED` (exit code 65) with the first reason.
        """
        blocked = [o for o in self.outcomes if o.blocks]
        if blocked:
            more = f" (and {len(blocked) - 1} more)" if len(blocked) > 1 else ""
            raise BpError(
                "RUNTIME_EVAL_GATE_REGRESSED",
                f"the gate on {blocked[0].gate.metric} tripped: {blocked[0].reason}{more}",
                "look at the rows that got worse, or allow more with --max-regression",
                details={"metrics": [o.gate.metric for o in blocked]},
            )


def judge(
    gates: Sequence[Gate],
    candidate: Mapping[str, Scores],
    baseline: Mapping[str, Scores] | None = None,
    *,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Verdict:
    """Hold a model to gates.

    Args:
        gates: all of which must hold.
        candidate: scores of the model by metric.
        baseline: scores of the model to keep up with, on the same rows; None where there is none: gates on
            regression are then not judged, and that is told.
        alpha: probability that any gate trips where nothing changed.
        seed: of the bootstrap.

    Raises:
        BpError: `INPUT_METRIC_UNKNOWN` where a gated metric was not scored; `INPUT_EVAL_NOT_PAIRED`.
    """
    warnings: list[str] = []
    shared = max(1, sum(g.max_regression is not None for g in gates))
    outcomes = []
    for gate in gates:
        for side in (candidate, baseline):
            if side is not None and gate.metric not in side:
                raise BpError(
                    "INPUT_METRIC_UNKNOWN",
                    f"the gate on {gate.metric} has nothing to judge: that metric was not scored",
                    f"score it too (--metric {gate.metric})",
                )
        scores = candidate[gate.metric]
        if not len(scores.stats):
            raise BpError(
                "RUNTIME_EVAL_FAILED", f"no row was scored with {gate.metric}", "evaluate a set with rows"
            )
        found = None
        if gate.max_regression is not None:
            if baseline is None:
                warnings.append(f"{gate.metric}: no baseline, so regression was not judged")
            else:
                # the upper bound of a two-sided interval of 1 - 2a is the one-sided bound of 1 - a
                found = compare(baseline[gate.metric], scores, level=1 - 2 * alpha / shared, seed=seed)
        outcome = _outcome(gate, scores, found, seed)
        outcomes.append(outcome)
        if not outcome.held and not outcome.blocks:
            warnings.append(f"{gate.metric}: {outcome.reason} (optional, tolerated)")
        if gate.threshold is not None and outcome.interval.low < gate.threshold < outcome.interval.high:
            warnings.append(f"{gate.metric}: the threshold {gate.threshold:g} lies within the figure's noise")
        small = size_warning(len(scores.stats))
        if small and small not in warnings:
            warnings.append(small)
    return Verdict(tuple(outcomes), tuple(warnings))


def _outcome(gate: Gate, scores: Scores, found: Comparison | None, seed: int) -> Outcome:
    sign = 1.0 if scores.better == "higher" else -1.0
    reasons: list[str] = []
    shortfall = 0.0
    if gate.threshold is not None and sign * (scores.value - gate.threshold) < -1e-12:
        short = abs(scores.value - gate.threshold)
        shortfall = short
        reasons.append(f"{scores.value:.4g} is {'below' if sign > 0 else 'above'} {gate.threshold:g}")
    if found is not None and gate.max_regression is not None:
        bound = found.interval.high if sign > 0 else -found.interval.low  # of the gain, from above
        if bound < -gate.max_regression:
            shortfall = max(shortfall, -found.gain - gate.max_regression)
            reasons.append(
                f"{found.baseline:.4g} became {found.candidate:.4g} ({found.delta:+.4g}; with noise at best "
                f"{sign * bound:+.4g}, allowed {-sign * gate.max_regression:+g})"
            )
    held = not reasons
    blocks = not held and (gate.required or (gate.tolerate is not None and shortfall > gate.tolerate))
    reason = "; ".join(reasons) or (
        "held" if found is None else f"no loss beyond noise ({found.delta:+.4g} on {found.n} rows)"
    )
    return Outcome(gate, held, blocks, shortfall, reason, scores.value, interval(scores, seed=seed), found)
