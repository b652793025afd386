"""How many answers an optimizer step learns from, where answers are drawn in groups, and what an epoch is then.

- A step is `batch_size` · `gradient_accumulation` answers: whole groups, one a prompt.
- `num_iterations` steps learn from the same answers, so that an epoch, in which each prompt is asked once, has so many
  times as many steps. Prompts that fill no step are left to the next epoch, whose order is another one.
"""

from __future__ import annotations

import math

from bp_core.settings.tables import STEP_EXAMPLES


def answers_of(group: int, prompts: int, batch: int | None, accumulation: int | None) -> tuple[int, int]:
    """(answers a pass, passes a step) that make whole groups, where one of them is open; no more prompts than there are.

    Example:
        Groups of 8 give (16, 1); with a batch of 4 they give (4, 4); groups of 6 give (12, 1), with a batch of 4 (4, 6).
    """
    most = group * prompts
    if batch is None:
        wanted = min(max(group, STEP_EXAMPLES - STEP_EXAMPLES % group), most)
        if accumulation is None:
            return wanted, 1
        batch = max(1, wanted // accumulation)
        while batch * accumulation % group:
            batch += 1
        return batch, accumulation
    if accumulation is None:
        least = group // math.gcd(group, batch)  # passes that make whole groups
        accumulation = least * max(1, min(STEP_EXAMPLES, most) // (batch * least))
    return batch, accumulation


def steps_per_epoch(group: int, prompts: int, answers: int, iterations: int) -> int:
    """Optimizer steps in which each prompt is asked once.

    Example:
        20 prompts in groups of 8, 16 answers a step, each learnt from twice: 2 prompts a step, 20 steps.
    """
    return max(1, prompts // max(1, answers // group)) * iterations
