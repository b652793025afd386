"""Rewards for the shape of a text: its length, its repetition, its variety."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from bp_core.rewards.reward import Case, reward

_SENTENCE = re.compile(r"(?<=[.!?])\s|(?<=[。！？])|\n")
_WORDS = 20_000  # of a longer text the first this many are looked at


@reward(
    cases=(
        Case("one two three", 1.0, parameters={"least": 2, "most": 5}),
        Case("one", 0.5, parameters={"least": 2, "most": 5}, why="half of the least"),
        Case("w " * 6, 0.8, parameters={"least": 2, "most": 5}, why="one word of 5 too long"),
        Case("w " * 10, 0.0, parameters={"least": 2, "most": 5}, why="twice the most"),
        Case("abcd", 1.0, parameters={"least": 1, "most": 4, "unit": "characters"}),
        Case("", 0.0, parameters={"least": 1}),
    )
)
def length_in_range(
    completion: str,
    *,
    least: Annotated[int, Ge(0)] = 1,
    most: Annotated[int, Ge(1)] = 512,
    unit: Literal["words", "characters"] = "words",
) -> float:
    """1 between `least` and `most`; below, length/least; above, falling in a line to 0 at twice `most`.

    The slope gives a group of too long answers something to climb, which a cut at `most` would not.
    """
    text = completion.strip()
    length = len(text.split()) if unit == "words" else len(text)
    if length < least:
        return length / least
    return max(0.0, 1.0 - max(0, length - most) / most)


@reward(
    range=(-1.0, 0.0),
    cases=(
        Case("one two three four five", 0.0),
        Case("no no no no no", -2 / 3, why="one of three trigrams is new"),
        Case("a b c a b c", -0.25, why="three of four trigrams are new"),
        Case("short", 0.0),
        Case("", 0.0),
    ),
)
def repetition_penalty(completion: str, *, ngram: Annotated[int, Ge(1)] = 3) -> float:
    """−(1 − distinct n-grams / n-grams), over words without case: 0 for no repetition, towards −1 for a loop.

    A text of fewer than n words gives 0; of a longer one than 20,000 words, the first 20,000 count.
    """
    found = completion.casefold().split(None, _WORDS)[:_WORDS]
    total = len(found) - ngram + 1
    if total < 1:
        return 0.0
    grams = {tuple(found[i : i + ngram]) for i in range(total)} if ngram < 16 else set(_joined(found, ngram))
    return -(1.0 - len(grams) / total)


def _joined(found: list[str], n: int) -> list[int]:
    """A hash for each window of n words, in time that does not grow with n."""
    base, modulus = 1_000_003, (1 << 61) - 1
    ids = {w: i + 1 for i, w in enumerate(dict.fromkeys(found))}
    lead, value, hashes = pow(base, n, modulus), 0, []
    for i, word in enumerate(found):
        value = (value * base + ids[word]) % modulus
        if i >= n:
            value = (value - ids[found[i - n]] * lead) % modulus
        if i >= n - 1:
            hashes.append(value)
    return hashes


@reward(
    cases=(
        Case("The sea was calm. Then, out of nowhere, a long low wind came over the dark hills!", 1.0),
        Case("the the the the the the the the", 0.0),
        Case("It was fun. It was fun. It was fun. It was fun.", 0.0),
        Case("Hello", 0.0, why="fewer than five words"),
        Case("", 0.0),
    )
)
def varied_prose(
    completion: str, *, distinct: Annotated[float, Gt(0)] = 0.6, window: Annotated[int, Ge(5)] = 100
) -> float:
    """Flow and vocabulary, as far as counting can see them: distinct words × sentences that are not alike.

    vocabulary = min(1, (share of distinct words in windows of `window` words − 0.4) / (`distinct` − 0.4 or more));
    variety = distinct first three words of sentences / sentences. The product is 0 for a loop. It cannot see sense:
    pair it with `judge`, or with a reward for the task.
    """
    found = [w.strip(".,;:!?\"'()") for w in completion.casefold().split(None, _WORDS)[:_WORDS]]
    found = [w for w in found if w]
    if len(found) < 5:
        return 0.0
    windows = [found[i : i + window] for i in range(0, len(found), window)]
    windows = [w for w in windows if len(w) >= 5]
    share = sum(len(set(w)) / len(w) for w in windows) / len(windows)
    vocabulary = min(1.0, max(0.0, (share - 0.4) / max(distinct - 0.4, 0.05)))
    openings = [tuple(s.casefold().split(None, 3)[:3]) for s in _SENTENCE.split(completion) if s.strip()]
    variety = len(set(openings)) / len(openings) if openings else 0.0
    return vocabulary * variety
