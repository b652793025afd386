"""Script and language of a row, without a model.

- Script: a histogram over code-point ranges of the first 400 characters; ASCII text is Latin at no cost. Kana makes
  Japanese, Hangul Korean, Han alone Chinese; these, Arabic, Hebrew, Greek and Thai need no more to name a language.
- Latin and Cyrillic languages are told by function words. That needs prose: fewer than 20 letters, or fewer than two
  function words of the best language, is `und` (undetermined), which is never a finding. Code and formulas are `und`.
- This is a mix statistic, not a per-row classifier for routing; for that, run a language identifier over the rows.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter

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
_BY_SCRIPT = {"Greek": "el", "Hebrew": "he", "Arabic": "ar", "Thai": "th", "Hangul": "ko", "Kana": "ja", "Han": "zh",
              "Devanagari": "hi", "Bengali": "bn", "Tamil": "ta"}  # fmt: skip
_FUNCTION_WORDS = {
    "en": "the of and to is in that it was for you with this are on be as have not at how what many from by",
    "de": "der die das und ist nicht ein eine ich zu den mit auf für von dem sich wie auch es sie wird",
    "fr": "le la les des est et une que dans pour pas qui sur avec ce il je du en vous nous",
    "es": "el los las que y es una por con para del se no lo como más su está qué",
    "it": "il che di è per una con non sono della gli nel anche più come si ma le",
    "pt": "o os que e é uma não para com do da em um por mais como você são ao",
    "nl": "de het een en van is dat niet op te voor met zijn er aan ook hoe je",
    "sv": "och att det som en på är av för med den till inte jag ett om hur",
    "pl": "nie się na że jest do w z to jak co dla i przez po",
    "tr": "bir ve bu için ile çok da ne daha olarak değil mi gibi",
    "id": "yang dan di ini itu dengan untuk tidak dari pada adalah ke saya",
    "vi": "là của và có không các cho một được trong những với người",
    "ru": "и в не на что я с он как это по но из у за так для",
    "uk": "і в не на що я з як це та до за для у але від",
}
_LANGUAGES: dict[str, list[str]] = {}
for _code, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES.setdefault(_word, []).append(_code)
LANGUAGES = frozenset((*_FUNCTION_WORDS, *_BY_SCRIPT.values(), "und"))
_WORD = re.compile(r"[^\W\d_]{1,20}")


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


def language(text: str, script_name: str | None = None) -> str:
    """ISO 639-1 code, or `und`.

    Example:
        >>> language("How many clips did the girl sell in April, and how many of them in May?")
        'en'
    """
    script_name = script_name or script(text)
    if script_name in _BY_SCRIPT:
        return _BY_SCRIPT[script_name]
    words = _WORD.findall(text[:400].lower())
    if sum(map(len, words)) < 20:
        return "und"
    votes: Counter[str] = Counter()
    for word in words:
        for code in _LANGUAGES.get(word, ()):
            votes[code] += 1
    if not votes:
        return "und"
    best = max(sorted(votes), key=lambda code: votes[code])
    return best if votes[best] >= 2 and votes[best] >= len(words) / 25 else "und"
