"""Whether a set of rewards gives any signal: its values on several completions of each prompt, before any training.

- GRPO learns from differences inside a group, the completions of one prompt: advantage = (r − mean) / std. A group whose
  rewards are all equal teaches nothing, whatever the value.
- `ceiling` and `floor` are the shares of completions at the highest and lowest value that the set can give (where that is
  known, else that was seen).
- Equal means within 1e-9: rewards are sums of floats.

Verdicts, the first that holds:
    few         no group has two completions
    constant    every completion is worth the same
    floor       more than 0.9 of the completions are at the lowest value
    ceiling     more than 0.9 are at the highest
    flat        more than 0.7 of the groups have no variance
    weak        more than 0.4 have none
    signal      else
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from bp_core.rewards.compose import RewardSet, Score
from bp_core.rewards.sample import Sample

EQUAL = 1e-9
ADVICE = {
    "few": "sample at least 4 completions of each prompt: GRPO compares completions of one prompt",
    "constant": "the set cannot tell these completions apart: check the column of the reference, or add a reward with partial credit",
    "floor": "nothing is ever right: take easier rows, a warm-up on known answers, more tokens, or a reward with partial credit",
    "ceiling": "nearly all is right already: take harder rows, a stricter reward, or a higher temperature",
    "flat": "most groups teach nothing: raise the temperature or the completions per prompt, drop rows that are always right or "
    "always wrong, or add partial credit",
    "weak": "many groups teach nothing: more completions per prompt or partial credit would use them",
    "signal": "the set tells completions of one prompt apart",
}


@dataclasses.dataclass(frozen=True)
class Spread:
    """How one value is spread over groups of completions.

    Attributes:
        mean: over all completions.
        std: over all completions (population).
        within: mean over groups of the group's own standard deviation.
        zero_variance: share of groups without variance, among those with two completions or more.
        floor: share of completions at the lowest value.
        ceiling: share at the highest.
        lowest: the lowest value seen.
        highest: the highest seen.
        missing: share of completions to which the reward does not apply.
    """

    mean: float
    std: float
    within: float
    zero_variance: float
    floor: float
    ceiling: float
    lowest: float
    highest: float
    missing: float = 0.0


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What `coverage` found.

    Attributes:
        groups: prompts.
        completions: of all groups.
        total: of the weighted sum.
        components: of each component's own value.
        verdict: see this module's docstring.
        advice: what to change.
    """

    groups: int
    completions: int
    total: Spread
    components: dict[str, Spread]
    verdict: str
    advice: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is something to learn from."""
        return self.verdict in ("signal", "weak")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**dataclasses.asdict(self), "ok": self.ok}


def coverage(rewards: RewardSet, groups: Sequence[Sequence[Sample]]) -> Coverage:
    """Score the completions of each prompt and say whether the set gives a signal.

    Args:
        rewards: the set.
        groups: for each prompt its completions, at least one group with one completion.

    Raises:
        ValueError: there is no completion.
    """
    groups = [g for g in groups if g]
    if not groups:
        raise ValueError("there is no completion to score")
    flat = rewards.score([s for g in groups for s in g])
    scores: list[list[Score]] = []
    at = 0
    for group in groups:
        scores.append(flat[at : at + len(group)])
        at += len(group)
    total = spread([[s.total for s in g] for g in scores], rewards.range)
    parts = {
        c.name: spread([[s.components[c.name] for s in g] for g in scores], c.range)
        for c in rewards.components
    }
    verdict = _verdict(total, max(map(len, groups)))
    advice = [ADVICE[verdict]]
    for name, part in parts.items():
        if verdict == "few" or len(parts) == 1:
            break
        if part.missing == 1:
            advice.append(f"{name} applies to no row: leave it out, or give its column")
        elif part.highest - part.lowest <= EQUAL:
            advice.append(f"{name} is {part.mean:.3g} everywhere: it adds nothing but a constant")
    return Coverage(len(groups), len(flat), total, parts, verdict, tuple(advice))


def spread(groups: Sequence[Sequence[float | None]], limits: tuple[float, float] | None) -> Spread:
    """The figures of one value; all 0 where it applies to no completion."""
    kept = [[v for v in g if v is not None] for g in groups]
    values = [v for g in kept for v in g]
    count = sum(map(len, groups))
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    low, high = limits or (min(values), max(values))
    several = [g for g in kept if len(g) > 1]
    deviations = [statistics.pstdev(g) for g in several]
    return Spread(
        mean=math.fsum(values) / len(values),
        std=statistics.pstdev(values),
        within=math.fsum(deviations) / len(deviations) if deviations else 0.0,
        zero_variance=sum(max(g) - min(g) <= EQUAL for g in several) / len(several) if several else 0.0,
        floor=sum(v - low <= EQUAL for v in values) / len(values),
        ceiling=sum(high - v <= EQUAL for v in values) / len(values),
        lowest=min(values),
        highest=max(values),
        missing=1 - len(values) / count,
    )


def _verdict(total: Spread, largest: int) -> str:
    if largest < 2:
        return "few"
    if total.floor > 0.9 and total.highest - total.lowest > EQUAL:
        return "floor"
    if total.ceiling > 0.9 and total.highest - total.lowest > EQUAL:
        return "ceiling"
    if total.highest - total.lowest <= EQUAL:
        return (
            "floor"
            if total.floor == 1 > total.ceiling
            else "ceiling"
            if total.ceiling == 1 > total.floor
            else "constant"
        )
    if total.zero_variance > 0.7:
        return "flat"
    return "weak" if total.zero_variance > 0.4 else "signal"
