"""A JSON array (or the array inside an object, or objects one after the other), element by element.

- A scanner finds the end of each element by its brackets and strings; orjson then parses that slice. So one bad
  element is one refusal, memory is one element, and the row number is the element's position.
- An object file gives its `data_field`, or the first member that is an array of objects; further arrays are noted.
  An object without one is a single row, unless its members are columns: lists of one length, or objects with the same
  keys, as pandas writes them.
- What follows an array or an object is read too: two files joined are two arrays.
- A row is numbered by its place; the line of the file where it starts stands in the hint of a refused one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from bp_data.errors import RowError
from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch, Counts, Limits, Row
from bp_data.sources.jsonl import BLOCK, parse

_TOKEN = re.compile(rb'["\[\]{},:]')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)


class _Scanner:
    """The tokens outside strings, over blocks; what is between `mark` and the position is kept, up to a limit."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.buffer, self.at, self.mark = b"", 0, 0
        self.dropped = False  # the current element went over the limit and its bytes are gone
        self.line = 1  # of the mark

    def _more(self) -> bool:
        if self.at - self.mark > self.limit:
            self.dropped = True
            self.skip(self.at)
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
        self.dropped = False
        self.skip(end)
        return data

    def skip(self, end: int) -> None:
        """Move the mark to `end`."""
        self.line += self.buffer.count(b"\n", self.mark, end)
        self.mark = end

    def ahead(self) -> bytes:
        """The next byte after the position that is no white space, or b"" at the end."""
        while True:
            rest = _SPACE.match(self.buffer, self.at)
            self.at = rest.end()  # pyright: ignore
            if self.at < len(self.buffer) or not self._more():
                return self.buffer[self.at : self.at + 1]

    def exhaust(self) -> None:
        """Give up the rest of the stream."""
        self.at = len(self.buffer)
        self._more = lambda: False

    def rest(self) -> bytes:
        """What stands at the position, for a message."""
        return self.buffer[self.at : self.at + 400]


def batches(
    stream: BinaryIO, name: str, limits: Limits, counts: Counts, *, sequence: bool = False
) -> Iterator[Batch]:
    """Elements of the array, as lists of `(position, value)` or `Rejected`.

    Args:
        stream: UTF-8 bytes.
        name: what refusals call the source.
        limits: bounds of reading.
        counts: gets what is told.
        sequence: objects one after the other, each a row of its own.
    """
    scanner = _Scanner(stream, limits.max_row_bytes)
    number = values = 0
    if scanner.ahead() == b"\xef":  # a byte-order mark
        scanner.at += 3
    while opening := scanner.ahead():
        scanner.skip(scanner.at)
        values += 1
        if values == 2 and not sequence:
            counts.notes.append(f"{name}: more follows the first JSON value (files joined?); it is read too")
            sequence = opening == b"{"
        if opening == b"[":
            scanner.at += 1
            found = _elements(scanner, name, limits, counts, number)
        elif opening == b"{":
            scanner.at += 1
            found = _object(scanner, name, limits, counts, number, alone=sequence)
        else:
            hint = f"line {scanner.line}: a .json file holds an array of objects, or an object with one"
            yield [
                Rejected(
                    name,
                    number + 1,
                    "invalid_json" if values == 1 else "trailing_data",
                    "",
                    hint,
                    excerpt(scanner.rest()),
                )
            ]
            return
        for batch in found:
            number = _number(batch[-1])
            yield batch


def _number(item: Row | Rejected) -> int:
    return item.line if isinstance(item, Rejected) else item[0]


def _elements(scanner: _Scanner, name: str, limits: Limits, counts: Counts, number: int) -> Iterator[Batch]:
    scanner.skip(scanner.at)
    depth, out, held = 0, [], 0
    while True:
        token = scanner.token()
        if token in (b"[", b"{"):
            depth += 1
        elif token in (b"]", b"}") and depth > 0:
            depth -= 1
        elif (token in (b",", b"]") and depth == 0) or token in (b"", b"}"):
            end = scanner.at - len(token)
            dropped, line = scanner.dropped, scanner.line
            data = scanner.take(end)
            scanner.skip(scanner.at)
            counts.bytes += len(data)
            closed = token == b"]"
            if data.strip() or dropped or token == b",":
                number += 1
                held += len(data)
                out.append(_element(data, name, number, dropped, limits, line, ended=token == b""))
            if token == b"}":
                number += 1
                hint = (
                    f"line {scanner.line}: a brace is closed that was never opened; nothing after it was read"
                )
                out.append(Rejected(name, number, "invalid_json", "", hint, ""))
                scanner.exhaust()
            elif not token:
                counts.notes.append(f"{name}: the array is never closed; the file may have been cut off")
            if closed or token in (b"", b"}"):
                if out:
                    yield out
                return
            if held > BLOCK:
                yield out
                out, held = [], 0


def _element(
    data: bytes, name: str, number: int, dropped: bool, limits: Limits, line: int, *, ended: bool
) -> Row | Rejected:
    line += data[: len(data) - len(data.lstrip())].count(b"\n")
    if dropped or len(data) > limits.max_row_bytes:
        hint = f"line {line}: a row may have at most {limits.max_row_bytes} bytes"
        return Rejected(name, number, "line_too_long", "", hint, excerpt(data))
    try:
        value = parse(data)
    except RowError as error:
        reason = "truncated_last_line" if ended else error.reason
        return Rejected(name, number, reason, "", f"line {line}: {error.hint}", excerpt(data.strip()))
    if type(value) is not dict:
        hint = f"line {line}: each element must be an object"
        return Rejected(name, number, "not_an_object", "", hint, excerpt(data.strip()))
    return (number, value)


def _object(
    scanner: _Scanner, name: str, limits: Limits, counts: Counts, number: int, *, alone: bool
) -> Iterator[Batch]:
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
        elif token == b"[" and depth == 1 and not expecting_key and not alone:
            wanted = key == limits.data_field if limits.data_field else not found and _opens_object(scanner)
            if wanted:
                found = key
                yield from _elements(scanner, name, limits, counts, number)
                scanner.skip(scanner.at)
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
            scanner.skip(scanner.at)
    if found:
        return
    if limits.data_field and not alone:
        scanner.skip(scanner.at)
        hint = f"the file has no array {limits.data_field!r}"
        yield [Rejected(name, number + 1, "missing_field", limits.data_field, hint, "")]
        return
    dropped, line = scanner.dropped, scanner.line
    data = scanner.take(scanner.at)
    counts.bytes += len(data)
    row = _element(data, name, number + 1, dropped, limits, line, ended=depth > 0)
    if not isinstance(row, Rejected) and (rows := from_columns(row[1])):
        counts.notes.append(f"{name}: {len(rows)} rows read from the columns {', '.join(list(row[1])[:8])}")
        yield list(enumerate(rows, number + 1))
        return
    yield [row]


def from_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object of columns; none where it is a row itself.

    Columns are lists of one length (token lists of one row look the same, so an object with `tokens` is a row), or
    objects with the same keys, as `pandas.DataFrame.to_json` writes them.
    """
    columns = list(value.values())
    if not columns or "tokens" in value:
        return []
    if all(type(column) is dict for column in columns):
        keys = list(columns[0])
        if not keys or any(list(column) != keys for column in columns) or not all(map(str.isdigit, keys)):
            return []
        columns = [list(column.values()) for column in columns]
    elif len(columns) < 2 or not all(type(column) is list for column in columns):
        return []
    if any(type(cell) is dict for column in columns for cell in column):
        return []  # messages
    if not columns[0] or len({len(column) for column in columns}) > 1:
        return []
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _opens_object(scanner: _Scanner) -> bool:
    while not (ahead := scanner.buffer[scanner.at : scanner.at + 64].lstrip()):
        if scanner.at + 64 < len(scanner.buffer) or not scanner._more():
            break
    return ahead[:1] == b"{"
