r"""Reading an answer out of a text: where it stands, what number it is, how texts are compared.

- Everything is linear in the length of the text; nothing here can backtrack.
- Numbers and boxes are read as the metrics of `bp_core.evaluation` read them.
- Normalisation is not quite the metrics', which follow SQuAD's script to the letter: there 3.5 is 35, -5 is 5 and the
  answer "A" is empty. A model that is rewarded for such an answer learns it.

Where an answer stands (`final_answer`), after the last `</think>`: the first that is there, the last of its kind:
    <SOLUTION>…</SOLUTION>, <answer>…</answer>    the tags of the prompts in `presets`
    \boxed{…}                                     LaTeX, with nested braces
    #### …                                        GSM8K
    answer is … / answer: …                       the rest of that line
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, TypeVar

import regex

from bp_core.rewards.json_text import after_thinking
from bp_core.rewards.numerals import boxed
from bp_core.rewards.numerals import number_of as last_number

T = TypeVar("T")
_TAIL = 10_000  # characters in which the last number is looked for
_PHRASE = re.compile(r"\banswer(?:\s+is\b|\s?:|\s?=)", re.I)
_ARTICLES = frozenset(("a", "an", "the"))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")  # inside a number it is no punctuation
_MINUS_SIGN = re.compile(r"(?<!\w)-(?=\d)")
_SIGNS = regex.compile(r"[^\p{L}\p{N}\p{M}\s\ue000\ue001%$€£°+]+")
_MINUS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "－": "-"})


def last_of(items: Iterable[T]) -> T | None:
    """The last item, None without any."""
    return next(iter(deque(items, maxlen=1)), None)


def plain_text(value: Any) -> str:
    """A reference as text: a string as it is, a list of one its item, anything else as JSON writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and len(value) == 1:
        return plain_text(value[0])
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: ""}[value]
    if isinstance(value, int | float):
        return str(value)
    import json

    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def answers(reference: Any) -> list[str]:
    """The accepted answers: a list of texts or numbers names several, anything else one."""
    if isinstance(reference, list | tuple) and all(isinstance(r, str | int | float) for r in reference):
        return [plain_text(r) for r in reference]
    return [plain_text(reference)]


def between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the last `opening` and the `closing` that follows it, or None.

    >>> between("<a>1</a> or <a>2</a>", "<a>", "</a>")
    '2'
    """
    end = text.rfind(closing)
    start = text.rfind(opening, 0, end) if end >= 0 else -1
    return text[start + len(opening) : end] if start >= 0 else None


def said(text: str) -> str:
    """What a text says after its thinking; nothing where the thinking never ends.

    >>> said("<think>Rome?</think> Paris"), said("<think>Rome? No,")
    (' Paris', '')
    """
    if "</think>" in text:
        return after_thinking(text)
    return "" if text.lstrip().startswith("<think>") else text


def marked_answer(text: str) -> str | None:
    """The answer where one of the marks of this module's table names it, else None."""
    text = said(text)
    for opening, closing in (("<SOLUTION>", "</SOLUTION>"), ("<answer>", "</answer>")):
        if (found := between(text, opening, closing)) is not None:
            return found.strip()
    if (found := boxed(text)) is not None:
        return found.strip()
    if (at := text.rfind("####")) >= 0:
        return text[at + 4 :].strip().partition("\n")[0].strip()
    if (last := last_of(_PHRASE.finditer(text))) is not None:
        return text[last.end() :].lstrip(" :=*").partition("\n")[0].strip().rstrip(".").strip()
    return None


def final_answer(text: str) -> str:
    """The marked answer, else the whole text after its thinking."""
    found = marked_answer(text)
    return said(text).strip() if found is None else found


def normalized(text: str) -> str:
    """Lower case, NFKC, no punctuation, no English article, single spaces (SQuAD's normalisation, arXiv:1606.05250).

    Signs that change a value stay: + - % $ € £ ° and a point between digits. The last word is no article: A is an answer.

    >>> normalized("The  Eiffel-Tower!")
    'eiffel tower'
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """The words of the normalised text."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_MINUS)
    text = _THOUSANDS.sub("", text)
    kept = _SIGNS.sub(" ", _MINUS_SIGN.sub("\ue001", _POINT.sub("\ue000", text)))
    kept = kept.replace("\ue000", ".").replace("\ue001", "-")
    found = kept.split()
    return [w for i, w in enumerate(found) if w not in _ARTICLES or i == len(found) - 1]


def number_of(value: Any) -> tuple[Fraction, bool] | None:
    r"""The number that a value is or that its final answer ends with, and whether it is a percentage; None for none.

    It is read as the metric `math_equal` reads it, in the last 10,000 characters of the answer.

    >>> number_of("She has 3 + 4 = 7.\n#### 7")
    (Fraction(7, 1), False)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return Fraction(str(value)), False
        except ValueError:  # NaN, an infinity, an integer of too many digits
            return None
    return last_number(final_answer(plain_text(value))[-_TAIL:])
