"""Parquet and Arrow IPC, a few rows at a time.

- Rows leave in batches of about 8 MB, however large they are. Memory is set by the largest row group or record batch,
  which has to be decoded whole; those over 512 MB are noted.
- A null column is an absent one. Nulls inside a value stay: `formats.base.without_nulls` leaves them out and tells, as it
  does for every source.
- What JSON has no type for becomes text: dates in ISO 8601, decimals as written, bytes as UTF-8 or else base64.
- A row group or batch that cannot be decoded refuses its rows, so that the count still holds.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.sources.base import Batch, Counts, Limits

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1000
BATCH_BYTES = 8 << 20
LARGE = 512 << 20


def batches(stream: BinaryIO, name: str, limits: Limits, counts: Counts, *, kind: str) -> Iterator[Batch]:
    """Rows of a Parquet or Arrow file, as lists of `(row number, row)` or `Rejected`.

    Raises:
        BpError: `INPUT_DATASET_UNREADABLE`.
    """
    import pyarrow as pa

    opener = _parquet if kind == "parquet" else _arrow
    number = 0
    try:
        for part in opener(stream, name, counts):
            if isinstance(part, str):
                number += 1
                yield [Rejected(name, number, "unreadable_row_group", "", part, "")]
                continue
            for rows in _rows(part, counts):
                yield [
                    Rejected(name, at, "unreadable_row_group", "", row, "")
                    if isinstance(row, str)
                    else (at, row)
                    for at, row in enumerate(rows, number + 1)
                ]
                number += len(rows)
    except (pa.ArrowException, OSError) as error:
        if number:
            yield [Rejected(name, number + 1, "unreadable_row_group", "", _said(error), "")]
            return
        cause = f"{name} is no readable {kind.capitalize()} file: {_said(error)}"
        raise BpError("INPUT_DATASET_UNREADABLE", cause, f"ls -l {name}") from None


def _said(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _parquet(stream: BinaryIO, name: str, counts: Counts) -> Iterator[pa.RecordBatch | str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not stream.seekable():
        raise BpError(
            "INPUT_DATASET_UNREADABLE", "Parquet cannot be read from a pipe", "save it to a file first"
        )
    file = pq.ParquetFile(stream, pre_buffer=False)
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        if facts.total_byte_size > LARGE:
            counts.notes.append(
                f"{name}: row group {group} holds {facts.total_byte_size >> 20} MB, all in memory at once"
            )
        seen, each = 0, facts.total_byte_size // max(facts.num_rows, 1)
        size = max(1, min(ROWS, BATCH_BYTES // max(each, 1)))
        try:
            for batch in file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
                seen += batch.num_rows
                yield batch
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            for _ in range(facts.num_rows - seen):
                yield f"row group {group}: {_said(error)}"


def _arrow(stream: BinaryIO, name: str, counts: Counts) -> Iterator[pa.RecordBatch | str]:
    import pyarrow as pa

    head = stream.peek(8)[:8]  # pyright: ignore - a BufferedReader
    if head.startswith(b"ARROW1\0\0") and stream.seekable():
        file = pa.ipc.open_file(stream)
        for index in range(file.num_record_batches):
            yield file.get_batch(index)
        return
    if head.startswith(b"ARROW1\0\0"):
        stream.read(8)  # a file is its stream behind a mark
    yield from pa.ipc.open_stream(stream)


def _rows(batch: pa.RecordBatch, counts: Counts) -> Iterator[list[dict[str, Any] | str]]:
    """Rows, or why one cannot be given, about `BATCH_BYTES` at a time."""
    import pyarrow as pa

    if not batch.num_rows:
        return
    temporal = [i for i, f in enumerate(batch.schema) if pa.types.is_temporal(f.type)]
    for index in temporal:  # Python's own types hold no nanoseconds
        batch = batch.set_column(index, batch.schema.field(index).name, batch.column(index).cast(pa.string()))
    each = batch.nbytes // batch.num_rows
    size = max(1, min(ROWS, BATCH_BYTES // max(each, 1)))
    for low in range(0, batch.num_rows, size):
        part = batch.slice(low, size)
        counts.bytes += each * part.num_rows
        try:
            yield [json_row(row) for row in part.to_pylist()]
        except (ValueError, OverflowError):  # bytes that are no UTF-8, a date beyond the calendar: row by row
            yield [_one(part.slice(i, 1)) for i in range(part.num_rows)]


def _one(row: pa.RecordBatch) -> dict[str, Any] | str:
    try:
        return json_row(row.to_pylist()[0])
    except (ValueError, OverflowError) as error:
        return _said(error)


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it, without its null columns."""
    return {str(key): _json_value(value) for key, value in row.items() if value is not None}


def _json_value(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is float or kind is bool or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if hasattr(value, "tolist"):  # NumPy
        return _json_value(value.tolist())
    return value if isinstance(value, str | int | float) else str(value)
