"""Plain text and Markdown as `{"text": …}` rows: a line, a paragraph (up to a blank line) or the whole document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch, Counts, Limits
from bp_data.sources.jsonl import BOM


def batches(stream: BinaryIO, name: str, limits: Limits, counts: Counts, *, by: str) -> Iterator[Batch]:
    """Rows of prose, as `(first line, {"text": …})` or `Rejected`; blank lines only separate."""
    number, first, pieces, size = 0, 1, [], 0
    while line := stream.readline(limits.max_row_bytes + 1):
        more = line
        while not more.endswith(b"\n") and len(more) > limits.max_row_bytes:  # the rest of an overlong line
            more = stream.readline(1 << 20)
        number += 1
        line = line.removeprefix(BOM)
        counts.bytes += len(line)
        blank = not line.strip()
        if blank and by != "document":
            counts.blank += 1
        if not blank or (by == "document" and pieces):
            if not pieces:
                first = number
            size += len(line)
            if size <= limits.max_row_bytes or not pieces:
                pieces.append(line)
        if pieces and (by == "line" or (by == "paragraph" and blank)):
            yield [_row(pieces, size, name, first, limits)]
            pieces, size = [], 0
    if pieces:
        yield [_row(pieces, size, name, first, limits)]


def _row(pieces: list[bytes], size: int, name: str, first: int, limits: Limits):
    if size > limits.max_row_bytes:
        hint = f"a row may have at most {limits.max_row_bytes} bytes; read the file by paragraph or line"
        return Rejected(name, first, "line_too_long", "", hint, excerpt(pieces[0]))
    data = b"".join(pieces).replace(b"\r\n", b"\n").strip(b"\n")
    if b"\x00" in data:
        return Rejected(
            name,
            first,
            "nul_byte",
            "",
            "text without NUL bytes; a crash or another encoding left one here",
            excerpt(data),
        )
    try:
        return (first, {"text": data.decode()})
    except UnicodeDecodeError as bad:
        hint = f"byte {bad.start + 1} (0x{data[bad.start]:02x}) is not UTF-8"
        return Rejected(name, first, "invalid_utf8", "", hint, excerpt(data))
