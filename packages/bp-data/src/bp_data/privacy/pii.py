"""Personal data and secrets in text: found by shape, checked, and never printed.

- Secrets come from the table in `secret_rules` and from `pem`; example keys (EXAMPLE, a run of one character) and
  placeholders do not count.
- Personal data: e-mail (international domains too), phone (strict North American or +country form only), payment card
  (brand prefix, length and Luhn), IBAN (country, length, mod 97), US social security number, public IPv4 and IPv6.
- Reserved addresses (example.com, private networks), `git@github.com`, `logo@2x.png` and versions do not count.
- Fast by gates: a pattern is tried only where the literal it needs stands; digit patterns only where 10 digits stand
  within 24 characters, tested for thousands of rows in one numpy call.
- Every quantifier is bounded, so no text can make a pattern quadratic.
- Invisible characters (zero-width, direction marks, soft hyphens) inside a value hide nothing: they are left out before
  the search, and redacted with the value.
- What is missed: names, postal addresses, keys without a prefix or a name. This is a filter, not a guarantee.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from bp_data.privacy.pem import private_keys
from bp_data.privacy.secret_rules import RULES, SECRET_KINDS, SECRET_NAME, Rule, is_placeholder, looks_typed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PII_KINDS", "SECRET_KINDS", "Finding", "find", "redact", "scan"]


class Finding(NamedTuple):
    """One match: kind and where it stands, in code points."""

    kind: str
    start: int
    end: int


PII_KINDS = ("email", "phone", "card", "iban", "ssn", "ipv4", "ipv6")

# Rules by the one character that a text must hold, and the rules whose literals stand in any case of letters.
_BY_MARK: dict[str, list[tuple[str, Rule]]] = {}
_ANY_CASE: list[tuple[str, Rule]] = []
for _rule in RULES:
    _where = _BY_MARK.setdefault(_rule.mark, []) if len(_rule.mark) == 1 else _ANY_CASE
    _where.extend((start, _rule) for start in _rule.starts)
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)

_EMAIL = re.compile(
    r"[A-Za-z0-9\u00c0-\u024f\u0370-\u052f._%+-]{1,64}@(?:\w(?:[\w-]{0,61}\w)?\.){1,5}"
    r"(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24}(?![A-Za-z0-9_])|[\u00c0-\u1fff]{2,24}|[\u3040-\u9fff\uac00-\ud7af]{2,4})"
    r"(?!\()"
)
_NO_MAIL = re.compile(
    r"(?i:^(?:git|hg|svn)@|@(?:[\w-]{1,63}\.){0,4}(?:example|invalid|localhost|local|test|internal)\b"
    r"|\.(?:png|jpe?g|gif|svg|webp|ico|avif|bmp|tiff?|pdf|css|scss|js|mjs|ts|tsx|jsx|json|map|html?|xml|ya?ml|toml|md|txt|py)$)"
)
_PHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)|\d{1,4})(?:[ .-]?\d{2,4}){2,4}"
    r"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4})(?![\w])"
)
# A lookahead: every group may begin a number.
_CARD = re.compile(r"(?<![\w.])(?=(\d(?:[ -]?\d){11,18})(?![\w.]))", re.ASCII)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]|-\w)", re.ASCII)
_VERSION = re.compile(
    r"(?:(?:\b|_)(?:version|ver|v|release|build|update|driver|firmware|section|chapter|table|figure|oid)[\W_]{0,8}"
    r"|[=~<>!^]=|[\^~]|\w-|[^/]/|§ ?)$",
    re.IGNORECASE,
)
_IPV6_GATE = re.compile(r":[0-9A-Fa-f]{0,4}:")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-])", re.ASCII)
_SSN_DIGITS = (-3, -2, -1, 1, 2, 4, 5, 6, 7)  # around the first dash
_NO_SSN = frozenset(
    {"078-05-1120", "219-09-9999", "123-45-6789"}
)  # printed on sample cards and in every manual
_IBAN = re.compile(
    r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII
)
# Length by country: the IBAN registry of SWIFT (ISO 13616).
_IBAN_LENGTH = {
    code: size
    for size, codes in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT LY ST", 26: "IS TR", 27: "FR GR IT MC MR SM BI DJ",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
# Brand, first and last prefix, lengths: ISO/IEC 7812 ranges as the brands publish them.
CARD_BRANDS: tuple[tuple[str, str, str, range], ...] = (
    ("visa", "4", "4", range(13, 20, 3)),
    ("mastercard", "51", "55", range(16, 17)),
    ("mastercard", "2221", "2720", range(16, 17)),
    ("amex", "34", "34", range(15, 16)),
    ("amex", "37", "37", range(15, 16)),
    ("discover", "6011", "6011", range(16, 20)),
    ("discover", "644", "659", range(16, 20)),
    ("diners", "300", "305", range(14, 20)),
    ("diners", "3095", "3095", range(14, 20)),
    ("diners", "36", "36", range(14, 20)),
    ("diners", "38", "39", range(14, 20)),
    ("jcb", "3528", "3589", range(16, 20)),
    ("unionpay", "62", "62", range(16, 20)),
    ("unionpay", "81", "81", range(16, 20)),
    ("maestro", "5018", "5018", range(12, 20)),
    ("maestro", "5020", "5020", range(12, 20)),
    ("maestro", "5038", "5038", range(12, 20)),
    ("maestro", "5893", "5893", range(12, 20)),
    ("maestro", "6304", "6304", range(12, 20)),
    ("maestro", "6759", "6763", range(12, 20)),
    ("mir", "2200", "2204", range(16, 20)),
)
_BRANDS: dict[str, list[tuple[str, str, range]]] = {}
for _, _first, _last, _lengths in CARD_BRANDS:
    _BRANDS.setdefault(_first[0], []).append((_first, _last, _lengths))


def digit_rows(texts: Sequence[str]) -> np.ndarray:
    """(R,) bool: whether a row may hold a phone number, a card or an address (10 digits in 24 characters, 3 dots
    between digits, or the dashes of a social security number).
    """
    import numpy as np

    joined = "\n".join(texts) + "\n"
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    found = np.zeros(len(texts), np.bool_)
    digits = np.flatnonzero(codes - codes.dtype.type(48) < 10)  # below "0" the unsigned difference wraps
    if len(digits) < 4:
        return found
    row = np.searchsorted(ends, digits, side="right")
    dense = (digits[9:] - digits[:-9] < 24) & (row[9:] == row[:-9])
    found[row[9:][dense]] = True
    gap = np.flatnonzero(digits[1:] - digits[:-1] == 2)
    dotted = gap[codes[digits[gap] + 1] == 46]
    found |= np.bincount(row[dotted], minlength=len(texts)) >= 3
    dashes = np.flatnonzero(codes == 45)
    dashes = dashes[(dashes >= 3) & (dashes + 7 < len(codes))]
    dashes = dashes[codes[dashes + 3] == 45]
    around = codes[dashes[:, None] + np.array(_SSN_DIGITS)]
    ssn = dashes[np.all((around >= 48) & (around <= 57), axis=1)]
    found[np.searchsorted(ends, ssn, side="right")] = True
    return found


def luhn(digits: str) -> bool:
    """Whether the check digit fits (ISO/IEC 7812)."""
    total = 0
    for i, c in enumerate(reversed(digits)):
        d = ord(c) - 48
        total += d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d)
    return total % 10 == 0


def card_length(run: str) -> int:
    """Length of the payment card number that a run of digit groups begins with, 0 where it begins with none.

    Brand prefix and length, Luhn, and not one digit repeated.

    Example:
        >>> card_length("4111 1111 1111 1111 12"), card_length("4111 1111 1111 1112")
        (19, 0)
    """
    d = run.replace(" ", "").replace("-", "")
    fitting = [lengths for first, last, lengths in _BRANDS.get(d[0], ()) if first <= d[: len(first)] <= last]
    if not fitting:
        return 0
    while len(d) >= 12:
        if any(len(d) in lengths for lengths in fitting) and len(set(d)) > 1 and luhn(d):
            return len(run)
        run = run[: max(run.rfind(" "), run.rfind("-"), 0)]
        d = run.replace(" ", "").replace("-", "")
    return 0


def is_iban(text: str) -> bool:
    """An international bank account number: length of its country and remainder 1 (ISO 13616, ISO 7064 mod 97-10)."""
    iban = text.replace(" ", "")
    if len(iban) != _IBAN_LENGTH.get(iban[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _iban_length(run: str) -> int:
    while len(run) >= 15:
        if is_iban(run):
            return len(run)
        run = run[: max(run.rfind(" "), 0)]
    return 0


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


def find(text: str, digits: bool = True, name: str = "") -> list[Finding]:
    """Everything found in one text, ordered by position, without overlaps.

    Args:
        text: any text.
        digits: False where `digit_rows` has ruled out numbers.
        name: the key under which the text stands: what `{"password": …}` holds is a password.

    Example:
        >>> [f.kind for f in find("write to ann@corp.io or call (415) 555-2671")]
        ['email', 'phone']
    """
    if not text.isascii() and _INVISIBLE.search(text):
        return _find_hidden(text, name)
    found = _secrets(text)
    if "@" in text:
        found.extend(
            Finding("email", *match.span())
            for match in _EMAIL.finditer(text)
            if not _NO_MAIL.search(match.group())
        )
    if ":" in text and _IPV6_GATE.search(text):
        found.extend(
            Finding("ipv6", *match.span()) for match in _IPV6.finditer(text) if _public(match.group())
        )
    if digits:
        found.extend(_numbers(text))
    if not found and name and SECRET_NAME.search(name) and _is_password(text):
        return [Finding("password", 0, len(text))]
    if len(found) < 2:
        return found
    found.sort(
        key=lambda f: (f.start, f.kind in PII_KINDS, -f.end)
    )  # a secret before an address that holds it
    kept, end = [], -1
    for finding in found:
        if finding.start >= end:
            kept.append(finding)
            end = finding.end
    return kept


def _secrets(text: str) -> list[Finding]:
    found: list[Finding] = []
    for mark, rules in _BY_MARK.items():
        if mark in text:
            for literal, rule in rules:
                if literal in text:
                    found += _matches(rule, literal, text, text)
    folded = _folded(text)
    assigned = "=" in text or ":" in text
    for literal, rule in _ANY_CASE:
        if (assigned or not rule.mark) and literal in folded:
            found += _matches(rule, literal, folded, text)
    if "PRIVATE KEY" in text:
        found += [Finding("private_key", start, end) for start, end in private_keys(text)]
    return found


def _folded(text: str) -> str:
    """The text in lower case, each character at its place (`İ` would become two)."""
    low = text.lower()
    return low if len(low) == len(text) else "".join([c.lower()[:1] for c in text])


def _matches(rule: Rule, literal: str, where: str, text: str) -> Iterator[Finding]:
    at = where.find(literal)
    while at >= 0:
        step = at + len(literal)
        if match := rule.pattern.match(text, at):
            group = match.lastgroup or 0
            value = match.group(group)
            if (
                "EXAMPLE" not in value
                and entropy(value) >= rule.entropy
                and not (rule.checked and is_placeholder(value))
                and (rule.kind != "password" or looks_typed(value, group == "v"))
            ):
                yield Finding(rule.kind, *match.span(group))
                step = max(step, match.end(group))
        at = where.find(literal, step)


def _is_password(text: str) -> bool:
    value = text.strip()
    return (
        8 <= len(value) <= 200
        and not any(map(str.isspace, value))
        and not is_placeholder(value)
        and "[" not in value
        and looks_typed(value, True)
        and entropy(value) >= 2.5
    )


def _numbers(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        if end := card_length(match.group(1)):
            yield Finding("card", match.start(), match.start() + end)
    for match in _IBAN.finditer(text):
        if end := _iban_length(match.group()):
            yield Finding("iban", match.start(), match.start() + end)
    for match in _SSN.finditer(text):
        if match.group() not in _NO_SSN:
            yield Finding("ssn", *match.span())
    for match in _IPV4.finditer(text):
        parts = match.group().split(".")
        fits = all(int(p) < 256 and (p == "0" or p[0] != "0") for p in parts)
        if (
            fits
            and IPv4Address(match.group()).is_global
            and not _VERSION.search(text[max(0, match.start() - 20) : match.start()])
        ):
            yield Finding("ipv4", *match.span())
    for match in _PHONE.finditer(text):
        if 9 <= sum(c.isdigit() for c in match.group()) <= 15:
            yield Finding("phone", *match.span())


def _public(text: str) -> bool:
    try:
        return IPv6Address(text).is_global
    except ValueError:
        return False


def _find_hidden(text: str, name: str) -> list[Finding]:
    """What is found once invisible characters are left out, at its place in the text as it stands."""
    places = [i for i, c in enumerate(text) if not _INVISIBLE.match(c)]
    seen = "".join([text[i] for i in places])
    return [Finding(f.kind, places[f.start], places[f.end - 1] + 1) for f in find(seen, True, name)]


def scan(texts: Sequence[str], names: Sequence[str] | None = None) -> list[list[Finding]]:
    """`find` for many texts, each with the key under which it stands where `names` are given."""
    if not texts:
        return []
    names = names or [""] * len(texts)
    return [
        find(text, bool(digits), name)
        for text, digits, name in zip(texts, digit_rows(texts).tolist(), names, strict=True)
    ]


def redact(text: str, name: str = "") -> str:
    """The text with every finding replaced by `[KIND]`, until nothing is found (overlapping matches leave remains).

    Example:
        >>> redact("mail ann@corp.io now")
        'mail [EMAIL] now'
    """
    while findings := find(text, True, name):
        out, last = [], 0
        for finding in findings:
            out += [text[last : finding.start], f"[{finding.kind.upper()}]"]
            last = finding.end
        text = "".join(out) + text[last:]
    return text
