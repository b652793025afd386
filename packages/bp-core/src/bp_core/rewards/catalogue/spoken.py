"""A reward for the language that a text is in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_core.rewards.reward import Case, reward

_EN = "The girl sold half as many clips in May as she had sold in April."


@reward(
    cases=(
        Case(_EN, 1.0),
        Case(_EN, 0.0, parameters={"code": "de"}),
        Case(
            "Das Mädchen verkaufte im Mai nur halb so viele Klammern wie im April.",
            1.0,
            parameters={"code": "de"},
        ),
        Case("彼女は五月に半分のクリップを売りました。", 1.0, parameters={"code": "ja"}),
        Case(_EN, 1.0, row={"language": "en"}, parameters={"code": "row"}, why="the row's own"),
        Case("42", 0.0, why="no language can be told"),
        Case("", 0.0),
    )
)
def language(completion: str, *, row: Mapping[str, Any] | None = None, code: str = "en") -> float:
    """1 where the text is in the language `code` (ISO 639), else 0; with `code = "row"` in that of the column `language`.

    The detector is that of `bp_data.language`: it reads the first 300 characters that are no code, and needs a
    sentence.
    """
    from bp_data.language import language as detect

    wanted = str((row or {}).get("language", "")) if code == "row" else code
    return float(bool(wanted) and detect(completion) == wanted.lower())
