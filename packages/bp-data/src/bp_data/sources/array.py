"""A JSON array (or the array inside an object), element by element, without loading the file.

- A scanner finds the end of each element by its brackets and strings; orjson then parses that slice. So one bad
  element is one refusal, memory is one element, and the row number is the element's position.
- An object file gives its `data_field`, or the first member that is an array of objects; further arrays are noted.
  An object without one is a single row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import orjson

from bp_data.errors import RowError
from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch, Counts, Limits
from bp_data.sources.jsonl import BLOCK, parse

_TOKEN = re.compile(rb'["\[\]{},:]')
_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)


class _Scanner:
    """The tokens outside strings, over blocks; what is between `mark` and the position is kept, up to a limit."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.buffer, self.at, self.mark = b"", 0, 0
        self.dropped = False  # the current element went over the limit and its bytes are gone

    def _more(self) -> bool:
        if self.at - self.mark > self.limit:
            self.dropped, self.mark = True, self.at
        block = self.stream.read(max(BLOCK, len(self.buffer) - self.mark))
        if not block:
            return False
        self.buffer = self.buffer[self.mark :] + block
        self.at -= self.mark
        self.mark = 0
        return True

    def token(self) -> bytes:
        """The next structural character after the position, or b"" at the end; strings count as `"`."""
        while True:
            found = _TOKEN.search(self.buffer, self.at)
            if found is None:
                self.at = len(self.buffer)
                if not self._more():
                    return b""
                continue
            self.at = found.end()
            if found.group() != b'"':
                return found.group()
            while True:
                self.at = _STRING.match(self.buffer, self.at).end()  # pyright: ignore
                if self.at < len(self.buffer) and self.buffer[self.at : self.at + 1] == b'"':
                    self.at += 1
                    return b'"'
                if not self._more():
                    self.at = len(self.buffer)
                    return b""

    def take(self, end: int) -> bytes:
        """The bytes from the mark to `end`, and move the mark there."""
        data = b"" if self.dropped else self.buffer[self.mark : end]
        self.dropped, self.mark = False, end
        return data


def batches(stream: BinaryIO, name: str, limits: Limits, counts: Counts) -> Iterator[Batch]:
    """Elements of the array, as lists of `(position, value)` or `Rejected`."""
    scanner = _Scanner(stream, limits.max_row_bytes)
    opening = scanner.token()
    if opening == b"[":
        yield from _elements(scanner, name, limits, counts)
    elif opening == b"{":
        yield from _object(scanner, name, limits, counts)
    elif opening or scanner.buffer.strip():
        hint = "a .json file holds an array of objects, or an object with one"
        yield [Rejected(name, 1, "invalid_json", "", hint, excerpt(scanner.buffer))]


def _elements(scanner: _Scanner, name: str, limits: Limits, counts: Counts) -> Iterator[Batch]:
    scanner.mark, depth, number, out = scanner.at, 0, 0, []
    held = 0
    while True:
        token = scanner.token()
        if token in (b"[", b"{"):
            depth += 1
        elif token in (b"]", b"}") and depth > 0:
            depth -= 1
        elif (token in (b",", b"]") and depth == 0) or token in (b"", b"}"):
            end = scanner.at - len(token)
            dropped = scanner.dropped
            data = scanner.take(end)
            scanner.mark = scanner.at
            closed = token == b"]"
            if data.strip() or dropped or token == b",":
                number += 1
                held += len(data)
                out.append(_element(data, name, number, dropped, limits, ended=token == b""))
            if token == b"}":
                number += 1
                hint = "a brace is closed that was never opened; nothing after it was read"
                out.append(Rejected(name, number, "invalid_json", "", hint, ""))
            elif not token:
                counts.notes.append(f"{name}: the array is never closed; the file may have been cut off")
            if closed or token in (b"", b"}"):
                if out:
                    yield out
                return
            if held > BLOCK:
                yield out
                out, held = [], 0


def _element(data: bytes, name: str, number: int, dropped: bool, limits: Limits, *, ended: bool):
    if dropped or len(data) > limits.max_row_bytes:
        hint = f"a row may have at most {limits.max_row_bytes} bytes"
        return Rejected(name, number, "line_too_long", "", hint, excerpt(data))
    try:
        value = parse(data)
    except RowError as error:
        reason = "truncated_last_line" if ended else error.reason
        return Rejected(name, number, reason, "", error.hint, excerpt(data.strip()))
    if type(value) is not dict:
        return Rejected(
            name, number, "not_an_object", "", "each element must be an object", excerpt(data.strip())
        )
    return (number, value)


def _object(scanner: _Scanner, name: str, limits: Limits, counts: Counts) -> Iterator[Batch]:
    scanner.mark = scanner.at - 1
    depth, key, found = 1, "", ""
    expecting_key = True
    while depth:
        token = scanner.token()
        if token == b"":
            break
        if token == b'"' and depth == 1 and expecting_key:
            text = scanner.buffer[scanner.buffer.rfind(b'"', 0, scanner.at - 1) : scanner.at]
            try:
                key = orjson.loads(text)
            except orjson.JSONDecodeError:
                key = text.decode("utf-8", "replace")
        elif token == b":" and depth == 1:
            expecting_key = False
        elif token == b"," and depth == 1:
            expecting_key = True
        elif token == b"[" and depth == 1 and not expecting_key:
            wanted = key == limits.data_field if limits.data_field else not found and _opens_object(scanner)
            if wanted:
                found = key
                yield from _elements(scanner, name, limits, counts)
                scanner.mark = scanner.at
                continue
            if found and _opens_object(scanner):
                counts.notes.append(
                    f"{name}: read the rows of {found!r}; {key!r} holds an array too and was not read"
                )
            depth += 1
        elif token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        if found:
            scanner.mark = scanner.at
    if found:
        return
    if limits.data_field:
        hint = f"the file has no array {limits.data_field!r}"
        yield [Rejected(name, 1, "missing_field", limits.data_field, hint, "")]
        return
    dropped = scanner.dropped
    data = scanner.take(scanner.at)
    yield [_element(data, name, 1, dropped, limits, ended=depth > 0)]


def _opens_object(scanner: _Scanner) -> bool:
    while not (ahead := scanner.buffer[scanner.at : scanner.at + 64].lstrip()):
        if scanner.at + 64 < len(scanner.buffer) or not scanner._more():
            break
    return ahead[:1] == b"{"
