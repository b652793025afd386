"""Rows that are in memory already: datasets, tables, data frames, columns, and lists of objects.

- A `DatasetDict` (any mapping of splits) gives its `train` split where it has one, as `hf:` does, and all splits
  otherwise; what is left out is told.
- Nothing is imported for it: a dataset or frame is known by what it can do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bp_data.errors import BpError

PATHS = (str, os.PathLike)


def is_rows(value: Any) -> bool:
    """Whether a value holds raw rows: no path, and no `Example` or `Rejected` that was read already."""
    if isinstance(value, PATHS):
        return False
    if isinstance(value, Mapping) or _is_dataset(value) or _is_frame(value) or _is_table(value):
        return True
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def parts(value: Any) -> tuple[list[tuple[str, Any]], str]:
    """(name, rows) of each part to read, and what is worth telling of the parts left out.

    Raises:
        BpError: `INPUT_VALIDATION_FAILED` for a mapping that is neither columns nor splits, or with uneven columns.
    """
    if not isinstance(value, Mapping):
        name = str(getattr(value, "split", None) or "rows")
        return [(name, value)], ""
    if value and all(is_rows(part) and not isinstance(part, Mapping) for part in value.values()):
        if "train" in value and len(value) > 1:
            others = ", ".join(str(name) for name in value if name != "train")
            return [("train", value["train"])], f"read the split 'train'; not read: {others}"
        return [(str(name), part) for name, part in value.items()], ""
    columns = {name: _listed(column) for name, column in value.items()}
    sizes = {name: len(column) for name, column in columns.items() if column is not None}
    hint = 'give rows: bp_data.read([{"prompt": "Why?", "completion": "So."}])'
    if len(sizes) < len(columns) or not sizes:
        cause = "a mapping must hold columns (lists) or splits; for one row, give a list of it"
        raise BpError("INPUT_VALIDATION_FAILED", cause, hint)
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise BpError("INPUT_VALIDATION_FAILED", f"the columns differ in length: {told}", hint)
    return [("rows", columns)], ""


def rows_of(value: Any) -> Iterable[Any]:
    """The rows of one part."""
    if isinstance(value, Mapping):
        names = list(value)
        return (dict(zip(names, cells, strict=True)) for cells in zip(*value.values(), strict=True))
    if _is_frame(value):
        import pyarrow as pa

        value = pa.Table.from_pandas(value, preserve_index=False)
    return _table_rows(value) if _is_table(value) else value


def _table_rows(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()


def _listed(column: Any) -> Sequence[Any] | None:
    if isinstance(column, list | tuple):
        return column
    return column.tolist() if hasattr(column, "tolist") else None


def _is_dataset(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "datasets" and isinstance(value, Iterable)


def _is_frame(value: Any) -> bool:
    return hasattr(value, "to_dict") and hasattr(value, "columns") and hasattr(value, "iloc")


def _is_table(value: Any) -> bool:
    return hasattr(value, "to_batches") and hasattr(value, "schema")
