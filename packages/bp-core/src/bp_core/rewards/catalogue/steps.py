"""A reward for reasoning that is laid out in steps."""

from __future__ import annotations

import re
from typing import Annotated

from annotated_types import Ge

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import marked_answer

_STEP = re.compile(
    r"^[ \t>*#]{0,8}(?:<\w{1,40}>[ \t]{0,8})?(?:step \d{1,3}\b|\d{1,3}[.)] |[-•] |(?:first|second|third|then|next|after that|finally|therefore|thus|so|hence)\b)",
    re.I | re.M,
)
_EQUATION = re.compile(r"^[^\n=]{1,200}[^\n=<>!]=[^\n=][^\n]{0,200}$", re.M)


@reward(
    cases=(
        Case("Step 1: 48/2 = 24\nStep 2: 48+24 = 72\nStep 3: done\n#### 72", 1.0),
        Case("1. Half is 24.\n2. The sum is 72.\n3. Done.", 0.8, why="no marked answer"),
        Case("First half it.\nThe answer is 24.", 0.8 / 3 + 0.2),
        Case("48/2 = 24\n24+48 = 72\n72 = x\nanswer: 72", 1.0, why="a line with an equation is a step"),
        Case("Step 1: a\nStep 1: a\nStep 1: a", 0.8 / 3, why="the same line counts once"),
        Case("72", 0.0),
        Case("", 0.0),
    )
)
def step_by_step(completion: str, *, least: Annotated[int, Ge(1)] = 3) -> float:
    """0.8 × min(1, distinct lines that are steps / `least`), and 0.2 for a marked answer where there is a step.

    A step begins with a number, a bullet, "Step 2" or a word such as "then", or holds an equation. Form alone: pair it
    with a reward for the answer.
    """
    steps: set[str] = set()
    for line in completion.splitlines():
        if (_STEP.match(line) or _EQUATION.match(line)) and len(steps) < least:
            steps.add(line.strip().casefold())
    if not steps:
        return 0.0
    return 0.8 * len(steps) / least + (0.2 if marked_answer(completion) else 0.0)
