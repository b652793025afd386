"""Examples that tests train on: short chats of varied length, made on the spot."""

from __future__ import annotations

import random

from bp_data.example import Example, Turn

COLOURS = ("red", "blue", "green")


def stones(count: int = 40, seed: int = 0) -> list[Example]:
    """`count` chats about the colours of stones, of 25 to 60 tokens."""
    rng = random.Random(seed)
    return [
        Example(
            id=f"stones:{i}",
            source="stones",
            line=i + 1,
            kind="chat",
            turns=(
                Turn("user", f"What is the colour of stone {i}?" + " please" * rng.randint(0, 12)),
                Turn("assistant", f"Stone {i} is {COLOURS[i % 3]}." + " yes" * rng.randint(0, 9)),
            ),
        )
        for i in range(count)
    ]


def quiet(_: str) -> None:
    """Swallows what the user would be told."""
