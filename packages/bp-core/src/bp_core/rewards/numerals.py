r"""Answers to sums: the number that an answer ends with, compared by value.

- The answer is read after the last `</think>`: the content of the last `\boxed{…}`, else what follows the last `####`, else
  the last number. A reference is read the same way, so that whole worked solutions (GSM8K) serve as references.
- Read as numbers: signs, decimals, exponents (1e5, 2×10^5), fractions (3/4, \frac{3}{4}, 1 1/2), thousands separators
  (1,234 · 1'234 · 1.234.567 · narrow spaces), decimal commas (1,5), currency signs and units, which are passed over.
- A percentage equals the bare figure and the share: 50% = 50 = 0.5. Where both carry the sign, the figures are compared.
- What is no number (x+1, \sqrt{2}) is compared as text without spaces and LaTeX dressing.
- Limits: units are not compared (3 km = 3 m); expressions are not simplified.
"""

from __future__ import annotations

import collections
import re
from fractions import Fraction

from bp_core.rewards.json_text import after_thinking

_LONGEST = 300  # digits of a number that is compared by value
_UNSIGNED = r"(?:\d{1,3}(?:[,'’\u00a0\u202f]\d{3})+(?!\d)(?:\.\d+)?|\d{1,3}(?:\.\d{3}){2,}(?!\d)(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d+|\d+(?:[.,]\d+)?|\.\d+)"
_POWER = r"(?:[eE][-+]?\d{1,3}(?!\d)|\s?(?:×|\\times|\*)\s?10\^\{?[-+−]?\d{1,3}\}?)?"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)\]}}])[-+−]\s?)?[$€£¥]?(?P<sign2>(?<=[$€£¥])[-−])?(?P<first>{_UNSIGNED})(?P<power>{_POWER})"
    rf"(?:\s?/\s?(?P<under>\d+(?:\.\d+)?)|\s(?P<top>\d+)/(?P<bottom>\d+))?\s?(?P<percent>\\?%)?"
)
_FRAC = re.compile(r"\\[dtc]?frac\s?(?:\{([^{}]*)\}\{([^{}]*)\}|(\d)(\d))")
_DRESSING = re.compile(
    r"\\(?:left|right|displaystyle|[,;:! ])|\\text\{[^{}]*\}|\\(?:mathrm|mbox)\{[^{}]*\}|\$|\s+"
)


def _plain_fractions(text: str) -> str:
    def one(m: re.Match[str]) -> str:
        top, bottom = (m[1], m[2]) if m[1] is not None else (m[3], m[4])
        return f"{top.strip()}/{bottom.strip()}"

    return _FRAC.sub(one, text)


def boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{…}` with its braces balanced; None where there is none.

    >>> boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    at = text.rfind("\\boxed{")
    if at < 0:
        return None
    start, depth = at + len("\\boxed{"), 1
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start:i]
    return text[start:]


def _decimal(text: str) -> Fraction | None:
    digits = re.sub(r"['’\u00a0\u202f]", "", text)
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}(?:\.\d{3})+,\d+", digits):
        digits = digits.replace(".", "").replace(",", ".")
    else:
        digits = digits.replace(",", ".")
    return Fraction(digits) if len(digits) <= _LONGEST else None


def _value(m: re.Match[str]) -> tuple[Fraction, bool] | None:
    """The number of a match, and whether it is a percentage; None where it is too long or divides by 0."""
    number = _decimal(m["first"])
    if number is None:
        return None
    if m["power"]:
        number *= Fraction(10) ** int(re.findall(r"[-+−]?\d+", m["power"])[-1].replace("−", "-"))
    for under in (m["under"], m["bottom"]):
        if under is not None and (len(under) > _LONGEST or Fraction(under) == 0):
            return None
    if m["under"]:
        number /= Fraction(m["under"])
    if m["top"]:
        if len(m["top"]) > _LONGEST:
            return None
        number += Fraction(m["top"]) / Fraction(m["bottom"])
    negative = (m["sign"] or m["sign2"] or "").strip() in ("-", "−")
    return (-number if negative else number), bool(m["percent"])


def _answer(text: str) -> tuple[str, bool]:
    """The part of a text that holds the answer, and whether it is marked as such."""
    text = after_thinking(text)
    inside = boxed(text)
    if inside is not None:
        return inside, True
    if "####" in text:
        return text.rsplit("####", 1)[1], True
    return text, False


def number_of(text: str) -> tuple[Fraction, bool] | None:
    r"""The number that a text ends with, and whether it is a percentage; None where it holds none.

    >>> number_of("That makes 1,234.5 in all, or \\boxed{50\\%}")
    (Fraction(50, 1), True)
    """
    part, _ = _answer(text)
    found = collections.deque(_NUMBER.finditer(_plain_fractions(_unspaced(part))), maxlen=1)
    last = found[0] if found else None
    return _value(last) if last else None


def _unspaced(text: str) -> str:
    """LaTeX's thin spaces and `{,}` inside numbers taken out."""
    return re.sub(r"\\[,!;: ]|(?<=\d)\{,\}(?=\d)", lambda m: "," if m[0] == "{,}" else "", text)


def _bare(text: str) -> str:
    return _DRESSING.sub("", _plain_fractions(text)).rstrip(".").lower()


def _is_number(part: str) -> bool:
    """Whether a marked answer is a number with at most a unit, and no expression."""
    rest = _NUMBER.sub("", _DRESSING.sub(" ", _plain_fractions(_unspaced(part))), count=1)
    return not re.search(r"[=+*^\\(){}\[\]√π<>|,;\d]", rest) and not re.fullmatch(r"\s*[a-z]\s*", rest)


def same_answer(said: str, wanted: str, tolerance: float) -> bool:
    """Whether two answers are the same: numbers within |a − b| ≤ tolerance · max(1, |b|), else as bare texts."""
    (a, a_marked), (b, b_marked) = _answer(said), _answer(wanted)
    if "=" not in b:  # \\boxed{x = 5} answers 5
        a = a.rsplit("=", 1)[-1] if a_marked else a
    expression = (a_marked and not _is_number(a)) or (not _is_number(b) and (b_marked or len(b) <= 200))
    if expression:
        return bool(_bare(b)) and _bare(a) == _bare(b)
    x, y = number_of(said), number_of(wanted)
    if x is None or y is None:
        return bool(_bare(b)) and _bare(a) == _bare(b)
    pairs = [(x[0], y[0])]
    if x[1] != y[1]:
        pairs.append((x[0] / 100, y[0]) if x[1] else (x[0], y[0] / 100))
    limit = Fraction(tolerance)
    return any(abs(p - q) <= limit * max(1, abs(q)) for p, q in pairs)
