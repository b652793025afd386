"""Preference pairs that tests train on: the right colour of a stone against a wrong one."""

from __future__ import annotations

import random

from bp_data.example import Example, Turn
from stones import COLOURS


def pairs(count: int = 40, seed: int = 0) -> list[Example]:
    """`count` pairs of varied length; the right answer is always the next colour of a fixed order."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        right, wrong = COLOURS[i % 3], COLOURS[(i + 1 + rng.randint(0, 1)) % 3]
        question = f"What is the colour of stone {i}?" + " please" * rng.randint(0, 9)
        rows.append(
            Example(
                id=f"pairs:{i}",
                source="pairs",
                line=i + 1,
                kind="preference",
                turns=(Turn("user", question),),
                chosen=(Turn("assistant", f"Stone {i} is {right}." + " yes" * rng.randint(0, 6)),),
                rejected=(Turn("assistant", f"It is {wrong}." + " no" * rng.randint(0, 6)),),
            )
        )
    return rows


def judged(count: int = 40, seed: int = 0) -> list[Example]:
    """`count` answers judged one by one: the right colours are wanted, every second row is a wrong one."""
    rows = []
    for i, pair in enumerate(pairs(count, seed)):
        answer = pair.chosen if i % 2 == 0 else pair.rejected
        rows.append(
            Example(
                id=f"judged:{i}",
                source="judged",
                line=i + 1,
                kind="unpaired",
                turns=(*pair.turns, *answer),
                label=i % 2 == 0,
            )
        )
    return rows
