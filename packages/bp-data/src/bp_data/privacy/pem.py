r"""Private keys in PEM and OpenPGP armour: the whole block, however it was pasted.

- A block is its BEGIN line, what follows, and its END line. Newlines may be real, the two characters `\n`, or quoted
  pieces joined by `+`; lines may be indented, quoted by `>` or commented by `#`.
- Without END (a row that was cut) the block reaches as far as lines of base64 and header lines do.
- A BEGIN line without a line of key after it is talk about keys, and no finding.
- A search for END stops at the next BEGIN and after 64 KiB: linear on any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LONGEST = 65_536
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_BETWEEN = re.compile(r"(?:\\[nrt]|[\s\"'`+,\\>|#*;()])+")
_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|MessageID): ?[^\r\n\\]{0,200}")
_CHUNK = re.compile(r"=?[A-Za-z0-9+/]{1,65536}+={0,2}+(?=[\s\"'`,\\<)]|-----|\Z)")
_NEWLINE = re.compile(r"\\n|[\r\n]")


def private_keys(text: str) -> Iterator[tuple[int, int]]:
    r"""Where the private keys of a text stand, in code points.

    Example:
        >>> text = "key: -----BEGIN PRIVATE KEY-----\\nMIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8\\n-----END PRIVATE KEY-----."
        >>> [text[a:b][-8:] for a, b in private_keys(text)]
        ['KEY-----']
    """
    begins = list(_BEGIN.finditer(text))
    for number, begin in enumerate(begins):
        limit = begins[number + 1].start() if number + 1 < len(begins) else len(text)
        limit = min(limit, begin.end() + _LONGEST)
        body = _body(text, begin.end(), limit)
        if body is None:
            continue
        end = _END.search(text, begin.end(), limit)
        if end and body < end.start() and _readable(text[body : end.start()]):
            end = None  # prose stands between the key and a later END: it is kept
        yield begin.start(), end.end() if end else body


def _body(text: str, at: int, limit: int) -> int | None:
    """Where the lines of a key end that begin at a place; None where there is none."""
    longest, last, end = 0, 0, at
    while at < limit:
        between = _BETWEEN.match(text, at, limit)
        at = between.end() if between else at
        header = _HEADER.match(text, at, limit)
        if header:
            at = header.end()
            continue
        chunk = _CHUNK.match(text, at, limit)
        if not chunk:
            break
        size = chunk.end() - chunk.start()
        fresh = bool(between and _NEWLINE.search(between.group()))
        if size < 20 and not (last >= 40 and fresh and _alone(text, chunk.end(), limit)):
            break
        longest, last, at = max(longest, size), size, chunk.end()
        end = at
    return end if longest >= 20 else None


def _alone(text: str, at: int, limit: int) -> bool:
    """Whether a line ends here."""
    return (
        at >= limit or text[at] in "\r\n\"'`<" or text.startswith("\\n", at) or text.startswith("-----", at)
    )


def _readable(text: str) -> bool:
    """Whether words stand in what lies between a key and its END line."""
    return len(re.findall(r"(?<![\w+/=])[A-Za-z]{2,15}(?![\w+/=])", text[:2000])) > 3
