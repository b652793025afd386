"""Personal data and secrets in text: found by shape, checked, and never printed.

- Kinds: e-mail, phone (strict North American or +country form only), payment card (issuer prefix, length and Luhn),
  public IPv4 address, and keys (AWS, GitHub, GitLab, OpenAI, Anthropic, Hugging Face, Google, Slack, Stripe, npm,
  PyPI, SendGrid, JWT, PEM private keys) with a floor on their Shannon entropy.
- Example keys (EXAMPLE, a run of one character) and reserved addresses (example.com, private networks) do not count.
- Fast by gates: a regular expression runs only on rows that hold the literal it needs; digit patterns only where 10
  digits stand within 24 characters, tested for thousands of rows in one numpy call.
- Every quantifier is bounded, so no text can make a pattern quadratic.
- What is missed: names, postal addresses, keys without a prefix. This is a filter, not a guarantee.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Finding(NamedTuple):
    """One match: kind and where it stands, in code points."""

    kind: str
    start: int
    end: int


SECRET_KINDS = {
    "aws_key": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}\b",
    "github_token": r"\b(?:gh[opsur]_[A-Za-z0-9]{36,255}|github_pat_\w{22,255})\b",
    "gitlab_token": r"\bglpat-[\w-]{20,64}",
    "anthropic_key": r"\bsk-ant-(?:api|admin)\d\d-[\w-]{80,120}",
    "openai_key": r"\bsk-(?:proj-|svcacct-|admin-)?[\w-]{10,100}T3BlbkFJ[\w-]{10,100}",
    "huggingface_token": r"\bhf_[A-Za-z]{34}\b",
    "google_key": r"\bAIza[\w-]{35}",
    "slack_token": r"\bxox[abposr]-[\w-]{10,120}",
    "stripe_key": r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{10,99}\b",
    "npm_token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "pypi_token": r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,255}",
    "sendgrid_key": r"\bSG\.[\w-]{16,32}\.[\w-]{30,64}",
    "jwt": r"\bey[A-Za-z0-9]{17,999}\.ey[\w-]{17,999}\.[\w-]{10,999}",
    "private_key": r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----",
}
PII_KINDS = ("email", "phone", "card", "ipv4")

_SECRETS = {kind: re.compile(pattern) for kind, pattern in SECRET_KINDS.items()}
_GATES = (
    # character, then literals with the kinds that they open
    ("_", (("ghp_", "github_token"), ("gho_", "github_token"), ("ghs_", "github_token"), ("ghu_", "github_token"),
           ("ghr_", "github_token"), ("github_pat_", "github_token"), ("hf_", "huggingface_token"),
           ("k_live_", "stripe_key"), ("k_test_", "stripe_key"), ("npm_", "npm_token"))),
    ("-", (("glpat-", "gitlab_token"), ("sk-ant-", "anthropic_key"), ("T3BlbkFJ", "openai_key"),
           ("xox", "slack_token"), ("pypi-AgEI", "pypi_token"), ("PRIVATE KEY-----", "private_key"))),
    ("A", (("AKIA", "aws_key"), ("ASIA", "aws_key"), ("ABIA", "aws_key"), ("ACCA", "aws_key"), ("AIza", "google_key"))),
    (".", (("SG.", "sendgrid_key"), (".ey", "jwt"))),
)  # fmt: skip
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}\b")
_RESERVED_MAIL = re.compile(r"@(?:[\w-]{1,63}\.){0,4}(?:example|invalid|localhost|test)\b", re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w.])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)|\d{1,4})(?:[ .-]?\d{2,4}){2,4}"
    r"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4})(?![\w])"
)
_CARD = re.compile(
    r"(?<![\w.])(?=(\d(?:[ -]?\d){12,18})(?![\w.]))"
)  # a lookahead: every group may begin a number
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_VERSION = re.compile(r"(?:version|v|release)\s{0,3}$", re.IGNORECASE)


def digit_rows(texts: Sequence[str]) -> np.ndarray:
    """(R,) bool: whether a row may hold a phone number, a card or an address (10 digits in 24 characters, or 3 dots
    between digits).
    """
    import numpy as np

    joined = "\n".join(texts) + "\n"
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    digit = (codes >= 48) & (codes <= 57)
    seen = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(digit, out=seen[1:])
    dense = np.zeros(len(codes), np.bool_)
    if len(codes) > 24:
        dense[24:] = seen[25:] - seen[1:-24] >= 10
    else:
        dense[-1] = seen[-1] >= 10
    dotted = np.zeros(len(codes), np.bool_)
    dotted[1:-1] = (codes[1:-1] == 46) & digit[:-2] & digit[2:]
    starts = np.concatenate([[0], ends[:-1]])
    dots = np.add.reduceat(dotted.astype(np.int32), starts)
    return (np.add.reduceat(dense.astype(np.int32), starts) > 0) | (dots >= 3)


def luhn(digits: str) -> bool:
    """Whether the check digit fits (ISO/IEC 7812)."""
    total = 0
    for i, c in enumerate(reversed(digits)):
        d = ord(c) - 48
        total += d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d)
    return total % 10 == 0


def is_card(text: str) -> bool:
    """A payment card number: issuer prefix and length, Luhn, and not one digit repeated."""
    d = "".join(c for c in text if c.isdigit())
    n = len(d)
    issuer = (
        (d[0] == "4" and n in (13, 16, 19))
        or (n == 16 and (51 <= int(d[:2]) <= 55 or 2221 <= int(d[:4]) <= 2720))
        or (n == 15 and d[:2] in ("34", "37"))
        or (n == 16 and (d[:4] == "6011" or d[:2] == "65" or 644 <= int(d[:3]) <= 649))
    )
    return issuer and len(set(d)) > 1 and luhn(d)


def _card_end(run: str) -> int:
    """Length of the card number that a run of digit groups begins with, 0 where it begins with none."""
    while len(run) >= 13:
        if is_card(run):
            return len(run)
        run = run[: max(run.rfind(" "), run.rfind("-"), 0)]
    return 0


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())


def find(text: str, digits: bool = True) -> list[Finding]:
    """Everything found in one text, ordered by position, without overlaps.

    Args:
        text: any text.
        digits: False where `digit_rows` has ruled out numbers.

    Example:
        >>> [f.kind for f in find("write to ann@corp.io or call (415) 555-2671")]
        ['email', 'phone']
    """
    found: list[Finding] = []
    for character, gates in _GATES:
        if character in text:
            for kind in {kind for literal, kind in gates if literal in text}:
                for match in _SECRETS[kind].finditer(text):
                    value = match.group()
                    if kind == "private_key" or ("EXAMPLE" not in value and entropy(value) >= 3):
                        found.append(Finding(kind, *match.span()))
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not _RESERVED_MAIL.search(match.group()):
                found.append(Finding("email", *match.span()))
    if digits:
        for match in _CARD.finditer(text):
            if end := _card_end(match.group(1)):
                found.append(Finding("card", match.start(), match.start() + end))
        for match in _IPV4.finditer(text):
            parts = match.group().split(".")
            fits = all(int(p) < 256 and (p == "0" or p[0] != "0") for p in parts)
            if (
                fits
                and IPv4Address(match.group()).is_global
                and not _VERSION.search(text[max(0, match.start() - 12) : match.start()])
            ):
                found.append(Finding("ipv4", *match.span()))
        for match in _PHONE.finditer(text):
            if 9 <= sum(c.isdigit() for c in match.group()) <= 15:
                found.append(Finding("phone", *match.span()))
    if len(found) < 2:
        return found
    found.sort(key=lambda f: (f.start, -f.end))
    kept, end = [], -1
    for finding in found:
        if finding.start >= end:
            kept.append(finding)
            end = finding.end
    return kept


def scan(texts: Sequence[str]) -> list[list[Finding]]:
    """`find` for many texts."""
    if not texts:
        return []
    return [find(text, bool(digits)) for text, digits in zip(texts, digit_rows(texts).tolist(), strict=True)]


def redact(text: str) -> str:
    """The text with every finding replaced by `[KIND]`, until nothing is found (overlapping matches leave remains).

    Example:
        >>> redact("mail ann@corp.io now")
        'mail [EMAIL] now'
    """
    while findings := find(text):
        out, last = [], 0
        for finding in findings:
            out += [text[last : finding.start], f"[{finding.kind.upper()}]"]
            last = finding.end
        text = "".join(out) + text[last:]
    return text
