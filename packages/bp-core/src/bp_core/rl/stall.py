"""A run that learns nothing because its answers are all worth the same: told, with what to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bp_core.rewards.coverage import ADVICE, EQUAL
from bp_core.training.watching.orders import Order
from bp_core.training.watching.recorder import Say

STEPS = 10  # in a row without a difference before it is told
ZERO, MEAN = "reward_zero_std", "reward"


class Stall:
    """Counts steps whose groups have no variance of rewards.

    Args:
        metrics: those of the newest step.
        limits: lowest and highest value that the rewards can give, None where that is not known.
        say: told once each time that it begins.
    """

    def __init__(
        self,
        metrics: Callable[[], Mapping[str, float]],
        limits: tuple[float, float] | None,
        say: Say,
    ) -> None:
        self.metrics, self.limits, self.say = metrics, limits, say
        self.count, self._looked = 0, -1

    def look(self, step: int) -> Order:
        """Go on; the run is the user's to stop."""
        found = self.metrics()
        if step == self._looked or ZERO not in found:
            return None
        self._looked = step
        self.count = self.count + 1 if found[ZERO] == 1.0 else 0
        if self.count == STEPS:
            self.say(
                "REWARD_STALLED",
                f"no answer was worth more than another of its group for {STEPS} steps: nothing is learnt. {self._advice(found)}",
                step=step,
                reward=found.get(MEAN),
            )
        return None

    def _advice(self, found: Mapping[str, float]) -> str:
        mean = found.get(MEAN)
        where = "flat"
        if mean is not None and self.limits is not None:
            low, high = self.limits
            where = "floor" if mean - low <= EQUAL else "ceiling" if high - mean <= EQUAL else "flat"
        return ADVICE[where]
