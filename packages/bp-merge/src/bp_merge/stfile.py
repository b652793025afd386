"""safetensors files, read by row and written as a stream.

- The header is checked whole before anything is read: sizes, bounds, overlap, coverage (the format's own rules).
- Rows are read by position (`pread`), not through a mapping: what is read is all that is resident.
- A writer knows every offset before the first value, so memory is one block whatever the file's size. It writes into
  a temporary file that becomes the final one when it is complete and durable.
- Headers are deterministic: the caller's order of names, keys in one order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bp_merge.casts import DTYPES
from bp_merge.common import BpError

MAX_HEADER = 100_000_000  # bytes, as the reference implementation


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A stored tensor.

    Args:
        name: its name.
        dtype: safetensors' name of the number type ("BF16").
        shape: as stored.
        file: the file that holds it.
        nbytes: bytes of its values.
        offset: of its first byte in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    nbytes: int
    offset: int = 0


def _invalid(path: Path, why: str) -> BpError:
    return BpError(
        "INPUT_FILE_INVALID",
        f"{path}: {why}",
        f"fetch or save {path.name} again",
        details={"path": str(path)},
    )


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors of a file in the order of its header, and its metadata.

    Raises:
        BpError: `INPUT_FILE_INVALID` with what is wrong.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length > min(MAX_HEADER, size - 8):
                raise _invalid(path, "no safetensors file, or cut off within its header")
            raw = file.read(length)
    except OSError as error:
        raise _invalid(path, error.strerror or str(error)) from None
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise _invalid(path, f"its header is no JSON ({error})") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _invalid(path, "its metadata is not text")
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        dtype, shape = "", ()
        try:
            dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
            numbers = (*shape, *entry["data_offsets"])
            start, end = numbers[-2:]
            sound = len(numbers) == len(shape) + 2 and len(entry) == 3 and dtype in DTYPES
            sound = sound and all(type(n) is int and 0 <= n < 1 << 56 for n in numbers)
            sound = sound and end - start == math.prod(shape) * DTYPES[dtype].itemsize
        except (KeyError, TypeError, ValueError, IndexError):
            start, end, sound = 0, 0, False
        if not sound:
            raise _invalid(path, f"the entry of {name!r} is malformed or of an unknown number type")
        spans.append((start, end))
        tensors[name] = TensorInfo(name, dtype, shape, path, end - start, 8 + length + start)
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise _invalid(path, "its tensors overlap or leave gaps")
        position = end
    if 8 + length + position != size:
        raise _invalid(path, f"it has {size} bytes where its header says {8 + length + position}")
    return tensors, metadata


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no JSON, not UTF-8, or nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


class Reader:
    """Reads parts of an open file by position, from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytearray:
        """Exactly `size` bytes from `offset`.

        Raises:
            BpError: `INPUT_FILE_INVALID` where the file ends before.
        """
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        while done < size:
            if hasattr(os, "preadv"):
                got = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            else:  # Windows
                with self._lock:
                    self._file.seek(offset + done)
                    got = self._file.readinto(view[done:]) or 0
            if not got:
                raise _invalid(self.path, "it ends before the tensor does")
            done += got
        return buffer

    def rows(self, info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start:stop) of the first dimension, in the stored number type."""
        dtype = DTYPES[info.dtype]
        if not info.shape:
            return np.frombuffer(self.read(info.offset, info.nbytes), dtype).reshape(())
        first, rest = info.shape[0], info.shape[1:]
        start, stop, _ = slice(start, stop).indices(first)
        width = math.prod(rest) * dtype.itemsize
        raw = self.read(info.offset + start * width, max(0, stop - start) * width)
        return np.frombuffer(raw, dtype).reshape(max(0, stop - start), *rest)

    def elements(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        """Elements [start:stop) of the flattened tensor, in the stored number type; shape (stop − start,)."""
        dtype = DTYPES[info.dtype]
        raw = self.read(info.offset + start * dtype.itemsize, (stop - start) * dtype.itemsize)
        return np.frombuffer(raw, dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Header bytes and offsets of a file that is to be written."""

    header: bytes
    order: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def total(self) -> int:
        """Bytes of the whole file."""
        return 8 + len(self.header) + sum(self.sizes)


def layout(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Layout:
    """Lay tensors out in the order given.

    Args:
        tensors: (name, dtype, shape) each.
        metadata: of the file; `{"format": "pt"}` unless given.
    """
    entries: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {"format": "pt"}).items()))}
    position, order, sizes = 0, [], []
    for name, dtype, shape in tensors:
        size = math.prod(shape) * DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
        order.append(name)
        sizes.append(size)
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    return Layout(text + b" " * (-len(text) % 8), tuple(order), tuple(sizes))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of writing `path` into a coded error.

    Raises:
        BpError: `RUNTIME_DISK_FULL`, else `RUNTIME_WRITE_FAILED`.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise BpError(
            "RUNTIME_DISK_FULL" if full else "RUNTIME_WRITE_FAILED",
            f"{path}: {error.strerror or error}",
            f"free some space, then run the same command again: df -h {path.parent}"
            if full
            else f"see whether the folder can be written to: ls -ld {path.parent}",
            retryable=full,
        ) from None


class AtomicFile:
    """A file that is written in order and has its name only when all of it is on the disk; a context manager.

    Leaving the `with` block without `commit` removes `NAME.partial`.

    Attributes:
        path: the final name.
        written: bytes so far.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.written = path, 0
        self._partial = path.with_name(f"{path.name}.partial")
        self._digest = hashlib.sha256()
        with writing(path):
            self._file = self._partial.open("wb", buffering=0)

    def __enter__(self) -> AtomicFile:
        return self

    def write(self, block: np.ndarray | bytes | bytearray) -> None:
        """Append bytes or values."""
        if isinstance(block, np.ndarray):
            view = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        else:
            view = memoryview(block)
        self._digest.update(view)
        with writing(self.path):
            while view:
                count = self._file.write(view)
                self.written += count
                view = view[count:]

    def commit(self) -> str:
        """Make the file durable, give it its name; the SHA-256 of its bytes as hex."""
        with writing(self.path):
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
            sync_folder(self.path.parent)
        return self._digest.hexdigest()

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename within a folder durable (Windows has no such call)."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: Path, text: str) -> None:
    """Write a small text atomically."""
    with AtomicFile(path) as file:
        file.write(text.encode("utf-8"))
        file.commit()


class Writer(AtomicFile):
    """Streams a safetensors file: values in the order of the layout, in blocks of any size; a context manager.

    Leaving the `with` block without an error makes the file durable and gives it its name; with an error, nothing
    is left of it. Afterwards `sha256` is the digest of the file.
    """

    def __init__(self, path: Path, plan: Layout) -> None:
        self.plan, self.sha256 = plan, ""
        super().__init__(path)

    def __enter__(self) -> Writer:
        self.write(len(self.plan.header).to_bytes(8, "little") + self.plan.header)
        return self

    def __exit__(self, kind: Any = None, error: Any = None, trace: TracebackType | None = None) -> None:
        try:
            if kind is None:
                if self.written != self.plan.total:
                    raise ValueError(
                        f"{self.path.name}: {self.written} of {self.plan.total} bytes were written"
                    )
                self.sha256 = self.commit()
        finally:
            super().__exit__()


def write_file(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a small file from arrays, names sorted."""
    from bp_merge.casts import NAMES

    arrays = {
        name: np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name])) for name in sorted(tensors)
    }
    plan = layout(((n, NAMES[a.dtype], a.shape) for n, a in arrays.items()), metadata)
    with Writer(path, plan) as out:
        for array in arrays.values():
            out.write(array.reshape(-1))
