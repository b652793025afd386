r"""JSON lines, split by hand so that every bad line is one numbered row and never the end of the file.

- Lines end at ``\n`` only (``str.splitlines`` would also cut at U+2028 inside strings); one ``\r`` is white space.
- The file is read in blocks of 64 KiB; a line over the limit is refused and skipped without being held.
- orjson parses: the fastest reader, strict about UTF-8, NaN and surrogates. Its errors carry no position for bytes
  that are not UTF-8, so a refused line is looked at again to say where and what.
- orjson turns integers beyond 64 bits into floats; such a row is parsed again with exact integers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from bp_data.errors import RowError
from bp_data.example import Rejected
from bp_data.excerpt import excerpt
from bp_data.sources.base import Batch, Counts, Limits

BOM = b"\xef\xbb\xbf"
DEPTH = 200  # levels of nesting; the writer of JSON stops at 254
BLOCK = 1 << 16  # small enough that the rows of a block stay in the cache
TOO_DEEP = f"at most {DEPTH} levels of nesting are read"
_BIG = 9.2e18  # just under 2**63: floats of this size may be integers that lost digits
_POSITION = re.compile(r"line (\d+) column (\d+)")


def batches(stream: BinaryIO, name: str, limits: Limits, counts: Counts) -> Iterator[Batch]:
    """Rows of a JSONL stream, as lists of `(line, value)` or `Rejected`, about one block at a time."""
    loads, number = orjson.loads, 0
    held: list[bytes] = []  # the pieces of a line that no block has ended yet
    held_bytes = 0
    skipping = False
    while True:
        block = stream.read(BLOCK)
        last = not block
        if skipping:
            end = block.find(b"\n")
            if end < 0 and not last:
                continue
            block, skipping = block[end + 1 :] if end >= 0 else b"", False
        counts.bytes += len(block)
        held.append(block)
        held_bytes += len(block)
        if not last and b"\n" not in block:
            if held_bytes > limits.max_row_bytes:
                number += 1
                yield [too_long(name, number, held[0], limits)]
                held, held_bytes, skipping = [], 0, True
            continue
        lines = b"".join(held).split(b"\n")
        tail = lines.pop()
        held, held_bytes = [tail], len(tail)
        complete = len(lines)
        if last and tail:
            lines.append(tail)
        if number == 0 and lines:
            lines[0] = lines[0].removeprefix(BOM)
        out: Batch = []
        append = out.append
        for index, line in enumerate(lines):
            number += 1
            if len(line) > limits.max_row_bytes:
                append(too_long(name, number, line, limits))
                continue
            try:
                value = loads(line)
            except orjson.JSONDecodeError as error:
                if not line.strip():
                    counts.blank += 1
                    continue
                if line.startswith(BOM):
                    counts.notes.append(
                        f"{name}: a byte-order mark before line {number} was left out (files joined?)"
                    )
                    lines[index] = line = line[len(BOM) :]
                    if not line.strip():
                        counts.blank += 1
                        continue
                    try:
                        value = loads(line)
                    except orjson.JSONDecodeError as second:
                        append(refuse(name, number, line, second, truncated=index >= complete))
                        continue
                else:
                    append(refuse(name, number, line, error, truncated=index >= complete))
                    continue
            if type(value) is not dict:
                hint = 'each line is one object, such as {"prompt": "…", "completion": "…"}'
                append(Rejected(name, number, "not_an_object", "", hint, excerpt(line)))
                continue
            try:
                for item in value.values():
                    kind = type(item)
                    if kind is str:
                        continue
                    if (kind is list or kind is dict or kind is float) and inexact(item):
                        value = exactly(line, value)
                        break
            except RowError as deep:
                append(Rejected(name, number, deep.reason, "", deep.hint, excerpt(line)))
                continue
            append((number, value))
        if out:
            yield out
        if last:
            return


def too_long(name: str, number: int, line: bytes, limits: Limits) -> Rejected:
    """The refusal of a row over the limit."""
    hint = f"a row may have at most {limits.max_row_bytes} bytes; raise max_row_bytes to read it"
    return Rejected(name, number, "line_too_long", "", hint, excerpt(line))


def parse(data: bytes) -> Any:
    """One JSON value from bytes, with exact integers and a reasoned refusal.

    Raises:
        RowError: with the reason of `diagnose`.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise diagnose(data, error) from None
    return exactly(data, value) if type(value) in (dict, list) and inexact(value) else value


def inexact(value: Any, left: int = DEPTH) -> bool:
    """Whether a value holds a float so large that it may be an integer that lost digits.

    Raises:
        RowError: `nesting_too_deep`.
    """
    kind = type(value)
    if kind is float:
        return not -_BIG < value < _BIG
    if not left:
        raise RowError("nesting_too_deep", "", TOO_DEEP)
    for item in value.values() if kind is dict else value:
        inner = type(item)
        if (inner is dict or inner is list or inner is float) and inexact(item, left - 1):
            return True
    return False


def exactly(data: bytes, value: Any) -> Any:
    """The value parsed again with exact integers; as it was where that parser refuses it (4,300 digits and more).

    Raises:
        RowError: `nesting_too_deep`.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise RowError("nesting_too_deep", "", TOO_DEEP) from None
    except ValueError:
        pass
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse a value that nests too deep for what comes after reading.

    Raises:
        RowError: `nesting_too_deep`.
    """
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            item
            for outer in level
            for item in (outer.values() if type(outer) is dict else outer)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return
    raise RowError("nesting_too_deep", "", TOO_DEEP)


def refuse(
    name: str, number: int, line: bytes, error: orjson.JSONDecodeError, *, truncated: bool
) -> Rejected:
    """The refusal of a line that does not parse; `truncated` for a last line without a newline."""
    found = diagnose(line, error)
    reason, hint = found.reason, found.hint
    if truncated and reason in ("invalid_json", "invalid_utf8"):
        reason, hint = (
            "truncated_last_line",
            "the file ends in the middle of a row; write it again or delete that line",
        )
    return Rejected(name, number, reason, "", hint, excerpt(line))


def diagnose(line: bytes, error: orjson.JSONDecodeError) -> RowError:
    """Why a line is no JSON value, as a reason code with the place."""
    if b"\x00" in line:
        return RowError(
            "nul_byte", "", f"a NUL byte at byte {line.index(0) + 1}; if the file is UTF-16, save it as UTF-8"
        )
    try:
        text = line.decode()
    except UnicodeDecodeError as bad:
        return RowError(
            "invalid_utf8",
            "",
            f"byte {bad.start + 1} (0x{line[bad.start]:02x}) is not UTF-8; save the file as UTF-8",
        )
    message = str(error)
    place = _POSITION.search(message)
    at = f"column {place.group(2)}" if place else "this line"
    what = message.split(":")[0]
    if "recursion" in what or "depth" in what:
        return RowError("nesting_too_deep", "", TOO_DEEP)
    if "surrogate" in what:
        return RowError("lone_surrogate", "", f"{at}: write the character itself, or both halves of the pair")
    if "infinity" in what:
        return RowError("not_finite", "", f"{at}: the number is beyond what a double can hold")
    if "control character" in what:
        return RowError("raw_control_character", "", f"{at}: escape it, for example a tab as \\t")
    if "after document" in what or "trailing" in what:
        if b"\r" in line.strip():
            hint = "rows are parted by bare carriage returns; write line ends: tr '\\r' '\\n' < in > out"
            return RowError("trailing_data", "", hint)
        return RowError("trailing_data", "", f"{at}: one JSON object per line")
    if re.search(r"[:\[,]\s*-?(?:NaN|Infinity)\b", text):
        return RowError("not_finite", "", f"{at}: use null or a finite number")
    return RowError("invalid_json", "", f"{at}: {what}")
