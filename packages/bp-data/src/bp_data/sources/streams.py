"""From a path or stdin to plain UTF-8 bytes and the name of what they are.

- Compression, UTF-16, Parquet and Arrow are told by the first bytes, not by the suffix; the suffix decides between text
  formats. Binary content of any other kind is refused.
- What cannot be opened twice (a pipe) is read once. A named pipe waits for a writer, a device is refused.
- UTF-16 and lines that end in a bare carriage return are recoded while they stream; that is noted, never silent.
- Where a stream breaks off (a damaged archive, an unreadable disk), all rows before come out, then the cause is told.
- JSON or JSON lines is decided by the first bytes: `layout` says how.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import stat
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bp_data.errors import BpError
from bp_data.excerpt import shown
from bp_data.sources.base import Counts
from bp_data.sources.content import binary_kind, encoding_of
from bp_data.sources.layout import json_layout

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".arrows": "arrow", ".ipc": "arrow", ".feather": "arrow",
    ".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown",
}  # fmt: skip
COMPRESSED = {".gz", ".zst", ".zstd", ".bz2", ".xz"}
PIPE_WAIT = 10.0  # seconds that a named pipe may stand without a writer
_PEEK = 1 << 16
_LINES = ("jsonl", "csv", "tsv", "text", "markdown")


def kind_by_name(name: str) -> str:
    """The kind that a file name claims, looking through compression; "" for an unknown suffix."""
    path = Path(name.lower())
    suffix = path.suffix
    if suffix in COMPRESSED:
        suffix = Path(path.stem).suffix
    return SUFFIXES.get(suffix, "")


@contextlib.contextmanager
def open_bytes(path: str, counts: Counts) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file or stdin ("-"), decompressed and in UTF-8, with its kind; everything opened is closed again.

    Yields:
        The stream, and one of jsonl, json, json-sequence, csv, tsv, parquet, arrow, text, markdown.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_UNREADABLE`, `DEP_ZSTANDARD_MISSING`.
    """
    if path == "-":
        yield _opened(sys.stdin.buffer, path, counts)
        return
    try:
        mode = Path(path).stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise BpError(
                "INPUT_DATASET_UNREADABLE",
                f"{shown(path)} is a device, no file",
                "COMMAND | bp-data validate -",
            )
        descriptor = (
            _pipe(path) if stat.S_ISFIFO(mode) else os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        )
        raw = open(descriptor, "rb", buffering=_PEEK)  # noqa: SIM115, PTH123 - closed by the block below
    except FileNotFoundError:
        cause = (
            f"{shown(path)} is a link that leads nowhere"
            if Path(path).is_symlink()
            else f"there is no file {shown(path)}"
        )
        raise BpError("INPUT_DATASET_NOT_FOUND", cause, f"ls -l {shown(Path(path).parent)}") from None
    except OSError as error:
        raise BpError(
            "INPUT_DATASET_UNREADABLE", f"{shown(path)}: {error.strerror}", f"ls -ld {shown(path)}"
        ) from None
    with raw:
        yield _opened(raw, path, counts)


def _pipe(path: str) -> int:
    """A descriptor of a pipe that somebody writes to.

    Opening a named pipe blocks until it has a writer, so a thread opens it; where none comes, this end opens it for
    writing for a moment, which lets the thread go.
    """
    opened: list[Any] = []

    def wait() -> None:
        try:
            opened.append(os.open(path, os.O_RDONLY))
        except OSError as error:
            opened.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(PIPE_WAIT)
    if thread.is_alive():
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        thread.join()
        if isinstance(opened[0], int):
            os.close(opened[0])
        raise BpError(
            "INPUT_DATASET_UNREADABLE",
            f"{shown(path)} is a named pipe, and nobody has opened it to write within {PIPE_WAIT:g} s",
            "start the writer first, or: COMMAND | bp-data validate -",
            retryable=True,
        )
    if isinstance(opened[0], OSError):
        raise opened[0]
    return opened[0]


def _opened(raw: BinaryIO, path: str, counts: Counts) -> tuple[BinaryIO, str]:
    name = "stdin" if path == "-" else path
    guarded = _Guarded(raw, counts)
    stream, head = _ahead(raw, guarded)
    if head.startswith(b"\x1f\x8b"):
        packed = gzip.GzipFile(fileobj=stream)
        stream, head = _unpacked(packed, "gzip", name, counts)
    elif head.startswith(b"BZh"):
        stream, head = _unpacked(bz2.BZ2File(stream), "bzip2", name, counts)
    elif head.startswith(b"\xfd7zXZ"):
        stream, head = _unpacked(lzma.LZMAFile(stream), "xz", name, counts)  # noqa: SIM115
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        stream, head = _unpacked(_Zstd(stream, name), "zstd", name, counts)
    elif counts.failure is not None and not head:
        raise BpError("INPUT_DATASET_UNREADABLE", f"{shown(name)}: {counts.failure}", f"ls -l {shown(name)}")
    named = kind_by_name(path)
    if head.startswith(b"PAR1"):
        return _columns(stream, "parquet", named, name, counts)
    if head.startswith((b"ARROW1\0\0", b"\xff\xff\xff\xff")):
        return _columns(stream, "arrow", named, name, counts)
    if encoding := encoding_of(head):
        counts.notes.append(f"{shown(name)}: recoded from {encoding.upper()} to UTF-8")
        stream, head = _ahead(None, _Recoded(stream, encoding))
    what, hint = binary_kind(head)
    if what:
        raise BpError("INPUT_DATASET_UNREADABLE", f"{shown(name)} is {what}", hint.format(shown(name)))
    kind = _kind(path, named, head)
    if kind in ("json", "json-sequence") and named == "jsonl":
        shape = "a JSON array or object" if kind == "json" else "objects over several lines each"
        counts.notes.append(f"{shown(name)}: read as {shape}, not as JSON lines")
    if kind in _LINES and b"\r" in head[:-1] and b"\n" not in head:
        counts.notes.append(f"{shown(name)}: its lines end in a bare carriage return; read as line ends")
        stream, head = _ahead(None, _Returns(stream))
    return stream, kind


def _columns(stream: BinaryIO, kind: str, named: str, name: str, counts: Counts) -> tuple[BinaryIO, str]:
    if named != kind:
        counts.notes.append(f"{shown(name)}: is {kind.capitalize()} by its content, whatever its name")
    return stream, kind


def _unpacked(reader: Any, how: str, name: str, counts: Counts) -> tuple[BinaryIO, bytes]:
    stream, head = _ahead(None, _Guarded(reader, counts))
    if counts.failure is not None and not head:
        cause = f"{shown(name)} cannot be decompressed: {counts.failure}"
        raise BpError("INPUT_DATASET_UNREADABLE", cause, f"{how} -t {shown(name)}")
    return stream, head


def _ahead(seekable: BinaryIO | None, raw: Any) -> tuple[BinaryIO, bytes]:
    """A stream and its first 64 KiB, which are still to be read from it."""
    if seekable is not None and seekable.seekable():
        start = seekable.tell()
        try:
            head = seekable.read(_PEEK)
        except OSError as error:
            raw.counts.failure, head = error, b""
        seekable.seek(start)
        return cast(BinaryIO, io.BufferedReader(raw, _PEEK)), head
    head = b""
    while len(head) < _PEEK and (more := raw.read(_PEEK - len(head))):
        head += more
    return cast(BinaryIO, io.BufferedReader(_After(head, raw), _PEEK)), head  # pyright: ignore


class _Raw(io.RawIOBase):
    """A readable stream made of another one."""

    def readable(self) -> bool:
        return True


class _After(_Raw):
    """Bytes that were read already, then the rest."""

    def __init__(self, head: bytes, rest: io.RawIOBase) -> None:
        self._head, self._rest = memoryview(head), rest

    def readinto(self, buffer: Any) -> int:
        if size := min(len(buffer), len(self._head)):
            buffer[:size], self._head = self._head[:size], self._head[size:]
            return size
        return self._rest.readinto(buffer) or 0  # pyright: ignore


class _Guarded(_Raw):
    """A stream that ends where reading fails, and leaves the cause in `counts.failure`."""

    def __init__(self, stream: Any, counts: Counts) -> None:
        self._stream, self.counts = stream, counts

    def seekable(self) -> bool:
        return not isinstance(self._stream, _Zstd) and self._stream.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            data = (
                self._stream.read1(len(buffer))
                if hasattr(self._stream, "read1")
                else self._stream.read(len(buffer))
            )
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            self.counts.failure = error
            return 0
        buffer[: len(data)] = data
        return len(data)


class _Zstd:
    """zstd frames, decompressed; a frame that is cut off raises EOFError."""

    def __init__(self, stream: BinaryIO, path: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise BpError(
                "DEP_ZSTANDARD_MISSING", f"{shown(path)} is zstd-compressed", 'pip install "bp-data[zstd]"'
            ) from None
        self._stream, self._module = stream, zstandard
        self._frame: Any = None
        self._data = b""

    def read(self, size: int) -> bytes:
        while not self._data:
            packed = self._stream.read(_PEEK)
            if not packed:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the zstd stream ended in the middle")
                return b""
            out = []
            while packed:
                if self._frame is None or self._frame.eof:
                    self._frame = self._module.ZstdDecompressor().decompressobj()
                try:
                    out.append(self._frame.decompress(packed))
                except self._module.ZstdError as error:
                    raise OSError(str(error)) from None
                packed = self._frame.unused_data if self._frame.eof else b""
            self._data = b"".join(out)
        data, self._data = self._data[:size], self._data[size:]
        return data


def _kind(path: str, named: str, head: bytes) -> str:
    if named in ("csv", "tsv", "text", "markdown"):
        return named
    layout = json_layout(head, named)
    return layout or named or ("jsonl" if path == "-" else "text")


class _Recoded(_Raw):
    """A byte stream in another encoding, read as UTF-8; what does not decode becomes U+FFFD."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decode: Callable[[bytes, bool], str] = codecs.getincrementaldecoder(encoding)("replace").decode
        self._left = b""
        self._first = True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            data = self._stream.read(_PEEK)
            text = self._decode(data, not data)
            if self._first and text:
                text, self._first = text.removeprefix("\ufeff"), False
            self._left = text.encode("utf-8", "replace")
            if not data and not self._left:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


class _Returns(_Raw):
    r"""A byte stream whose carriage returns are read as ``\n``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)
