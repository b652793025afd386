"""A reward for a question with lettered answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bp_core.rewards.reward import Case, reward
from bp_core.rewards.text import answers, marked_answer, said, words

_LETTER = re.compile(r"(?<![A-Za-z0-9'’])\(?([A-Z])(?:\)|\.|:|(?![A-Za-z0-9'’]))")
_ARTICLE = re.compile(r"A (?!(?:is|was|or|and|but|because)\b)[a-z]")
_ALONE = re.compile(r"\W{0,8}([A-Za-z])\W{0,8}")


def chosen(text: str, options: str) -> str | None:
    """The letter that a text chooses: of its marked answer, alone, or the only one that it names.

    >>> chosen("I take (B), since A is wrong.", "ABCD") is None
    True
    """
    marked = marked_answer(text)
    part = (said(text) if marked is None else marked).strip()
    alone = _ALONE.fullmatch(part) if len(part) < 20 else None
    if alone:
        return alone[1].upper() if alone[1].upper() in options else None
    head = re.match(r"\W{0,8}([A-Z])\s{0,3}[).:]", part)
    if head and head[1] in options:
        return head[1]
    named = {found[1] for found in _LETTER.finditer(part) if found[1] in options}
    if len(named) > 1 and not any(
        f[1] == "A" and not _ARTICLE.match(part, f.start()) for f in _LETTER.finditer(part)
    ):
        named.discard("A")  # "A quick check shows B": an article, no choice
    return named.pop() if len(named) == 1 else None


@reward(
    cases=(
        Case("B", 1.0, "B"),
        Case("(b)", 1.0, "B"),
        Case("B) Paris", 1.0, "B"),
        Case("The answer is B.", 1.0, "B"),
        Case("<answer>B</answer>", 1.0, "(B)"),
        Case("A or B", 0.0, "B", why="two choices are none"),
        Case("A quick check shows B", 1.0, "B", why="the article is no choice"),
        Case("C", 0.0, "B"),
        Case("<think>A? No.</think>B", 1.0, "B"),
        Case("B", 1.0, 1, why="a number is an index from 0"),
        Case("Paris", 1.0, "B", row={"choices": ["Rome", "Paris"]}, why="the text of the choice"),
        Case("E", 0.0, "E", why="not among the options"),
        Case("", 0.0, "B"),
    )
)
def multiple_choice(
    completion: str, *, reference: Any, row: Mapping[str, Any] | None = None, options: str = "ABCD"
) -> float:
    """1 where the text chooses the letter of the reference and no other, else 0.

    The reference is a letter, or an index from 0. With a column `choices` (a list of texts) the text of the right one
    counts too. `options` are the letters that exist.
    """
    texts = (row or {}).get("choices")
    texts = [str(t) for t in texts] if isinstance(texts, list | tuple) else []
    if texts:
        options = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(texts)]
    if isinstance(reference, int) and not isinstance(reference, bool):
        right = options[reference] if 0 <= reference < len(options) else None
    else:
        right = chosen(answers(reference)[0], options) if answers(reference) else None
    if right is None:
        return 0.0
    if chosen(completion, options) == right:
        return 1.0
    at = options.index(right)
    part = marked_answer(completion)
    given = words(said(completion) if part is None else part)
    return float(at < len(texts) and bool(given) and given == words(texts[at]))
