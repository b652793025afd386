"""A reward for a pattern that the user writes; a time limit bounds what a pattern can cost."""

from __future__ import annotations

from typing import Annotated, Literal

import regex
from annotated_types import Gt
from bp_merge.common import BpError

from bp_core.rewards.reward import Case, reward


@reward(
    cases=(
        Case("Order 12-34", 1.0, parameters={"pattern": r"\d\d-\d\d"}),
        Case("Order 12-34", 0.0, parameters={"pattern": r"\d\d-\d\d", "where": "all"}),
        Case(
            "12-34\n",
            1.0,
            parameters={"pattern": r"\d\d-\d\d", "where": "all"},
            why="outer blanks do not count",
        ),
        Case("x: 12-34", 0.0, parameters={"pattern": r"\d\d-\d\d", "where": "start"}),
        Case("sorry", 0.0, parameters={"pattern": r"(?i)sorry", "wanted": False}),
        Case("", 0.0, parameters={"pattern": r"\d"}),
        Case("a" * 40 + "!", 0.0, parameters={"pattern": r"(a+)+$", "seconds": 0.05}, why="bounded in time"),
    )
)
def regex_match(
    completion: str,
    *,
    pattern: str,
    where: Literal["anywhere", "start", "all"] = "anywhere",
    wanted: bool = True,
    seconds: Annotated[float, Gt(0)] = 0.5,
) -> float:
    """1 where the pattern is found (with `wanted = false`: where it is not), else 0.

    Patterns are those of the `regex` package; `.` matches line ends too. A search that takes longer than `seconds`
    (s) gives 0 either way.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a pattern that cannot be read.
    """
    try:
        made = regex.compile(pattern, regex.DOTALL | regex.MULTILINE)
    except (regex.error, OverflowError, RecursionError) as error:
        raise BpError(
            "INPUT_VALIDATION_FAILED",
            f"regex_match: the pattern {pattern!r} cannot be read: {error}",
            "backprop reward show regex_match",
        ) from None
    search = {"anywhere": made.search, "start": made.match, "all": made.fullmatch}[where]
    try:
        return float((search(completion.strip(), timeout=seconds) is not None) == wanted)
    except TimeoutError:
        return 0.0
