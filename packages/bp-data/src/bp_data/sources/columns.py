"""Parquet, one batch of rows at a time.

- Memory is set by the largest row group, which has to be decoded whole; groups over 512 MB are noted.
- Arrow fills the absent keys of structs with null, so null keys are dropped on the way in: null is not a value here.
- A row group that cannot be decoded refuses each of its rows, so that the count still holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.sources.base import Batch, Counts, Limits

ROWS = 1000
LARGE = 512 << 20


def batches(stream: BinaryIO, name: str, limits: Limits, counts: Counts) -> Iterator[Batch]:
    """Rows of a Parquet file, as lists of `(row number, row)` or `Rejected`.

    Raises:
        BpError: `INPUT_DATASET_UNREADABLE`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not stream.seekable():
            raise BpError(
                "INPUT_DATASET_UNREADABLE", "Parquet cannot be read from a pipe", "save it to a file first"
            )
        file = pq.ParquetFile(stream, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise BpError(
            "INPUT_DATASET_UNREADABLE", f"{name} is no readable Parquet file: {cause}", f"ls -l {name}"
        ) from None
    number = 0
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        if facts.total_byte_size > LARGE:
            counts.notes.append(
                f"{name}: row group {group} holds {facts.total_byte_size >> 20} MB, all in memory at once"
            )
        end = number + facts.num_rows
        try:
            for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], use_threads=False):
                rows: Batch = []
                for value in batch.to_pylist():
                    number += 1
                    rows.append((number, drop_nulls(value)))
                yield rows
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            hint = f"row group {group}: {str(error).splitlines()[0][:200]}"
            while number < end:
                number += 1
                yield [Rejected(name, number, "unreadable_row_group", "", hint, "")]


def drop_nulls(value: Any) -> Any:
    """The value without the null members of objects, at any depth."""
    if isinstance(value, dict):
        return {key: drop_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [drop_nulls(item) for item in value]
    return value
