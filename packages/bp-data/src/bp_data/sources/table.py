"""CSV and TSV: every cell is text, every record is one row with the line it starts on.

- The delimiter is the one of `, ; tab |` that the header holds most often outside quotes.
- A record is the physical lines up to an even number of quotes. Where they never become even, the record's first line
  is refused and reading goes on with the next: one stray quote does not swallow the rest of the file.
- The first column may be nameless (an index); `sep=;` on a first line of its own names the delimiter.
- Nothing is guessed about types: `007` stays `007`, `null` stays a word.
- `csv.field_size_limit` is raised for the process when it is below `max_row_bytes`.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch, Counts, Limits
from bp_data.sources.jsonl import BOM

DELIMITERS = ",;\t|"
_SEP = re.compile(rb'"?sep=([,;|\t ])"?\s*', re.IGNORECASE)
LOOKAHEAD = 10_000  # lines that one quoted cell may span


def batches(
    stream: BinaryIO, name: str, limits: Limits, counts: Counts, *, delimiter: str = ""
) -> Iterator[Batch]:
    """Records of a delimited file, as lists of `(first line, {column: cell})` or `Rejected`.

    Raises:
        BpError: `INPUT_CSV_HEADER_INVALID`.
    """
    if csv.field_size_limit() < limits.max_row_bytes:
        csv.field_size_limit(limits.max_row_bytes)
    lines = _Lines(stream, limits.max_row_bytes)
    header: list[str] | None = None
    out: Batch = []
    held, start = 0, b""
    while (group := lines.record()) is not None:
        first, data, closed = group
        data = data.removeprefix(BOM)
        if not data.strip():
            counts.blank += 1
            continue
        if header is None:
            if said := _SEP.fullmatch(data):  # a first line for Excel alone
                delimiter = said.group(1).decode("ascii", "replace")
                continue
            start = data
            header, delimiter = _header(data, name, delimiter, counts)
            lines.delimiter = delimiter
            continue
        if data.rstrip() == start.rstrip():
            counts.blank += 1
            counts.notes.append(f"{name}: line {first} repeats the header (files joined?) and was left out")
            continue
        counts.bytes += len(data)
        held += len(data)
        out.extend(_rows(data, first, closed, header, delimiter, name, limits))
        if held > 1 << 20:
            yield out
            out, held = [], 0
    if out:
        yield out


def _header(data: bytes, name: str, delimiter: str, counts: Counts) -> tuple[list[str], str]:
    text = data.decode("utf-8-sig", "replace")
    if not delimiter:
        bare = "".join(text.split('"')[::2])
        delimiter = max(DELIMITERS, key=bare.count)
    cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [""])
    columns = [column.strip() for column in cells]
    if (
        len(columns) > 1 and not columns[0] and all(columns[1:])
    ):  # the index that pandas writes unless told not to
        columns[0] = "Unnamed: 0"
        counts.notes.append(f"{name}: the first column has no name and is called 'Unnamed: 0' (an index?)")
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice or not all(columns):
        what = f"names {twice[0]!r} twice" if twice and twice[0] else "has a column without a name"
        raise BpError(
            "INPUT_CSV_HEADER_INVALID", f"{name}: the header {what}", "rename it in line 1 of the file"
        )
    return columns, delimiter


def _rows(
    data: bytes, first: int, closed: bool, header: list[str], delimiter: str, name: str, limits: Limits
) -> Iterator[tuple[int, dict[str, str]] | Rejected]:
    if len(data) > limits.max_row_bytes:
        yield Rejected(
            name,
            first,
            "line_too_long",
            "",
            f"a record may have at most {limits.max_row_bytes} bytes",
            excerpt(data),
        )
        return
    if not closed:
        hint = 'close the quote, and double a quote inside a cell: "she said ""no"""'
        yield Rejected(name, first, "unclosed_quote", "", hint, excerpt(data))
        return
    if b"\x00" in data:
        yield Rejected(
            name,
            first,
            "nul_byte",
            "",
            "a record without NUL bytes; a crash or another encoding left one here",
            excerpt(data),
        )
        return
    try:
        text = data.decode()
    except UnicodeDecodeError as bad:
        hint = f"byte {bad.start + 1} (0x{data[bad.start]:02x}) is not UTF-8; save the file as UTF-8"
        yield Rejected(name, first, "invalid_utf8", "", hint, excerpt(data))
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    line = first
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Rejected(
                name, line, "ragged_row", "", f"the record cannot be divided: {error}", excerpt(text)
            )
            return
        if cells:
            if len(cells) != len(header):
                hint = f"{len(cells)} cells, the header has {len(header)}"
                yield Rejected(name, line, "ragged_row", "", hint, excerpt(text))
            else:
                yield (line, dict(zip(header, cells, strict=True)))
        line = first + reader.line_num


class _Lines:
    """Physical lines, grouped into records by the parity of quotes."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.limit = stream, limit
        self.number = 0
        self.delimiter = ","
        self.ahead: deque[bytes] = deque()

    def _line(self) -> bytes:
        if self.ahead:
            return self.ahead.popleft()
        line = self.stream.readline(self.limit + 1)
        if len(line) > self.limit:  # keep the head, skip the rest of the line
            while not line.endswith(b"\n"):
                more = self.stream.readline(1 << 20)
                if not more:
                    break
                line = line if len(line) > self.limit else line + more
                if more.endswith(b"\n"):
                    break
        return line

    def record(self) -> tuple[int, bytes, bool] | None:
        """The next record as (first line, bytes, whether its quotes close), or None at the end."""
        line = self._line()
        if not line:
            return None
        self.number += 1
        first = self.number
        if line.count(b'"') % 2 == 0 or len(line) > self.limit:
            return first, line, True
        pieces, size = [line], len(line)
        while len(pieces) < LOOKAHEAD and size <= self.limit:
            more = self._line()
            if not more:
                break
            pieces.append(more)
            size += len(more)
            if more.count(b'"') % 2:
                self.number += len(pieces) - 1
                return first, b"".join(pieces), True
        self.ahead.extendleft(reversed(pieces[1:]))
        return first, line, _literal(line, self.delimiter)


def _literal(line: bytes, delimiter: str) -> bool:
    """Whether an odd line is a record by itself all the same: its quotes stand inside unquoted cells."""
    try:
        list(
            csv.reader(
                io.StringIO(line.decode("utf-8", "replace"), newline=""), delimiter=delimiter, strict=True
            )
        )
    except csv.Error:
        return False
    return True
