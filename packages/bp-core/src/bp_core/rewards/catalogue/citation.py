"""A reward for citations in a known style."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from annotated_types import Ge

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import last_of

_NAME = r"[^\W\d_][\w'’.-]{0,60}"
_NAMES = rf"{_NAME}(?: {_NAME}){{0,3}}(?:,? (?:&|and|et al\.?)(?: {_NAME}){{0,3}})?"
_IN_TEXT = {
    "apa": re.compile(
        rf"\((?=[^()\n]{{0,80}}?[^\W\d_])[^()\n]{{1,160}}?, (?:1[5-9]|20)\d\d[a-z]?(?:, pp?\. ?\d{{1,5}}(?:[-–]\d{{1,5}})?)?\)"
        rf"|\b{_NAME}(?: et al\.)? \((?:1[5-9]|20)\d\d[a-z]?\)"
    ),
    "mla": re.compile(rf"\((?:{_NAMES}) \d{{1,5}}(?:[-–]\d{{1,5}})?\)"),
    "numeric": re.compile(r"\[\d{1,4}(?:(?:, ?|[-–])\d{1,4}){0,20}\]"),
}
_ENTRY = {
    "apa": re.compile(
        r"^[^\W\d_][^\n]{1,200}?\((?:1[5-9]|20)\d\d[a-z]?(?:, [^()\n]{1,30})?\)\. [^\n]{3,}", re.M
    ),
    "mla": re.compile(r"^[^\W\d_][^\n.]{1,200}\. [“\"]?[^\n]{3,400}?,? (?:1[5-9]|20)\d\d\b", re.M),
    "numeric": re.compile(r"^ {0,3}(?:\[\d{1,4}\]|\d{1,4}\.) [^\n]{8,}", re.M),
}
_HEADING = re.compile(r"^[ #*]{0,8}(?:references|works cited|bibliography|sources)\b[ :*]{0,8}$", re.I | re.M)
_CHARACTERS = 50_000


@reward(
    cases=(
        Case("It holds (Smith, 2020).\n\nReferences\nSmith, J. (2020). On things. Journal, 3(2), 1–9.", 1.0),
        Case("It holds (Smith, 2020).", 0.5, why="no list of references"),
        Case(
            "It holds (Smith 23).\n\nWorks Cited\nSmith, John. On Things. Penguin, 2020.",
            1.0,
            parameters={"style": "mla"},
        ),
        Case(
            "It holds [1].\n\nReferences\n[1] J. Smith, On things, 2020.",
            1.0,
            parameters={"style": "numeric"},
        ),
        Case("It holds [1].", 0.0, parameters={"style": "apa"}, why="another style"),
        Case("It holds (Smith, 2020).", 1.0, parameters={"entries": False}),
        Case("It holds (Smith, 2020).", 0.25, parameters={"least": 2}, why="one of two"),
        Case("It holds.", 0.0),
        Case("", 0.0),
    )
)
def citations(
    completion: str,
    *,
    style: Literal["apa", "mla", "numeric"] = "apa",
    least: Annotated[int, Ge(1)] = 1,
    entries: bool = True,
) -> float:
    """Half for at least `least` citations in the text, half for as many entries under a heading for references.

    Form alone: whether the works exist is not looked at. `entries = false` asks for none, and the citations count
    whole. Of a text of more than 50,000 characters the first 25,000 and the last 25,000 are read.
    """
    text = completion
    if len(text) > _CHARACTERS:
        text = text[: _CHARACTERS // 2] + "\n" + text[-_CHARACTERS // 2 :]
    heading = last_of(_HEADING.finditer(text))
    body, listed = (text[: heading.start()], text[heading.end() :]) if heading else (text, "")
    cited = min(1.0, len({found.group() for found in _IN_TEXT[style].finditer(body)}) / least)
    if not entries:
        return cited
    return 0.5 * cited + 0.5 * min(1.0, sum(1 for _ in _ENTRY[style].finditer(listed)) / least)
