"""Any recorded value as plain JSON data, and files that are whole or absent.

- JSON has no NaN and no infinity: both become null, so that every file we write parses everywhere.
- A file is written to a temporary sibling, fsynced and renamed; a killed process or a full disk leaves the old
  file or none, never half of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Turn dataclasses, paths, enums, sets, tuples and numeric scalars into JSON-able data.

    >>> plain({"a": (1, float("nan")), "p": Path("x")})
    {'a': [1, None], 'p': 'x'}
    """
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return storable(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    tolist = getattr(value, "tolist", None)  # numpy and torch scalars and arrays
    return plain(tolist()) if callable(tolist) else storable(str(value))


def storable(text: str) -> str:
    """A text that UTF-8 can hold: what a file name smuggled in as a lone surrogate becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON text, with keys in the order given."""
    return json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Write a whole file or nothing.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file, if any, is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        with partial.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105 - the documented promise is that of os.replace
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON, whole or not at all."""
    return write_atomic(path, dumps(value, indent=2) + "\n")
