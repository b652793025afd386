"""How a file of JSON is laid out, by its first bytes: JSON lines, one value, or values one after the other.

- `[` begins an array, whatever the name of the file is, unless each line is a whole array of its own.
- An object that closes on its first line while more follows is JSON lines. One that closes on a later line, with
  another behind it, is a sequence: pretty-printed JSON lines.
- A first line that is merely broken leaves a file of JSON lines what it is.
"""

from __future__ import annotations

import re

import orjson

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def json_layout(head: bytes, named: str) -> str:
    """`jsonl`, `json`, `json-sequence`, or "" where the head is no JSON array or object.

    Args:
        head: the first bytes of the file, up to 64 KiB.
        named: the kind that its name claims.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] not in (b"[", b"{"):
        return ""
    first, _, more = start.partition(b"\n")
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        value = None
    if start[:1] == b"[":
        if named != "jsonl":
            return "json"
        if value is None:
            return "json" if start[1:].lstrip()[:1] in (b"{", b"]") else "jsonl"
        return "json" if value and isinstance(value[0], dict) and not more.strip() else "jsonl"
    if value is not None:
        return "jsonl" if more.strip() or named != "json" else "json"
    end = _first_value(start)
    if end and b"\n" in start[:end]:
        try:
            orjson.loads(start[:end])
        except orjson.JSONDecodeError:
            return "json" if named == "json" else "jsonl"
        follows = start[end:].lstrip()[:1] == b"{"
        if follows or named == "jsonl":
            return "json-sequence"
        return "json"
    if named == "json" or first.strip() == b"{":
        return "json-sequence" if named == "jsonl" else "json"
    return "jsonl"


def _first_value(text: bytes) -> int:
    """Where the first object of a text ends, or 0 where it does not end in it."""
    depth = 0
    for found in _TOKEN.finditer(text):
        token = found.group()
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return found.end()
    return 0
