"""What is measured at an evaluation: each evaluator turns a step into named values.

- The values join the run's metrics under their names. One of them, `heldout_loss` unless another is asked for, decides what
  is best and when to stop.
- An evaluator may draw random numbers: the watch puts the generators back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

LOSS = "heldout_loss"
REWARD = "heldout_reward"


class Evaluator(Protocol):
    """Measures the model as it stands."""

    def __call__(self, step: int) -> Mapping[str, float]:
        """Named values after `step`, the steps done so far."""
        ...


class HeldOut:
    """Loss and metrics of the held-out units.

    Args:
        measure: gives `loss` and further names.

    Example:
        {"loss": 2.0, "rewards_margin": 0.5} becomes heldout_loss 2.0 and heldout_rewards_margin 0.5.
    """

    def __init__(self, measure: Callable[[], Mapping[str, float]]) -> None:
        self.measure = measure

    def __call__(self, step: int) -> Mapping[str, float]:
        """The values that `measure` gives now."""
        return {f"heldout_{name}": value for name, value in self.measure().items()}


def value_name(metric: str) -> str:
    """A metric's name among a run's values; of `path/to/mine.py:brevity` the function's."""
    return metric.rpartition(":")[2]


class Prompts:
    """Answers to fixed prompts, kept as events.

    Args:
        prompts: of the user.
        answer: prompt → greedy answer.
        event: keeps one (`Run.event` fits).
    """

    def __init__(
        self, prompts: Sequence[str], answer: Callable[[str], str], event: Callable[..., Any]
    ) -> None:
        self.prompts, self.answer, self.event = prompts, answer, event

    def __call__(self, step: int) -> Mapping[str, float]:
        """No values."""
        for prompt in self.prompts:
            self.event("SAMPLE_GENERATED", self.answer(prompt), prompt=prompt, step=step)
        return {}
