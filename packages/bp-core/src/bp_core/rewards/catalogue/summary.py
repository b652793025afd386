"""A reward for a summary: it covers the reference's or the source's words, and is short."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from annotated_types import Gt, Le

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import plain_text, said, words

_SOURCE = (
    "The council met on Monday. The council agreed on a new bridge over the river. The bridge will cost "
    "two million and open in May."
)


@reward(
    cases=(
        Case("council agreed new bridge open May", 1.0, "council agreed new bridge open May", _SOURCE),
        Case("council agreed", 0.5, "council agreed new bridge open May", _SOURCE, why="F1 of 2 and 6 words"),
        Case(_SOURCE, 0.0, "council agreed new bridge open May", _SOURCE, why="as long as the source"),
        Case("weather", 0.0, "council agreed new bridge open May", _SOURCE),
        Case("", 0.0, "council agreed", _SOURCE),
        Case("council bridge", 1.0, "council bridge", None, why="without a source only the words count"),
    )
)
def concise_summary(
    completion: str,
    *,
    reference: Any,
    prompt: str | None = None,
    ratio: Annotated[float, Gt(0), Le(1)] = 0.5,
) -> float:
    """Words shared with the reference summary (F1, 0 to 1) × brevity against the prompt that holds the source.

    brevity is 1 up to `ratio` × the prompt's words, and falls in a line to 0 at the prompt's own length.
    """
    told, wanted = words(said(completion)), words(plain_text(reference))
    if not told or not wanted:
        return 0.0
    f1 = 2 * (Counter(told) & Counter(wanted)).total() / (len(told) + len(wanted))
    source = len(words(prompt)) if prompt else 0
    if not source or len(told) <= ratio * source:
        return f1
    return f1 * max(0.0, 1.0 - (len(told) - ratio * source) / max(source * (1 - ratio), 1.0))
