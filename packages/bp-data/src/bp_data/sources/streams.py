"""From a path or stdin to plain UTF-8 bytes and the name of what they are.

- Compression and UTF-16 are told by the first bytes, not by the suffix; the suffix decides between text formats.
- UTF-16 with or without a byte-order mark is recoded while it streams; that is noted, never silent.
- JSON or JSON lines is decided by the first bytes: `[` is an array; an object that closes on its first line while
  more follows is JSON lines.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import orjson

from bp_data.errors import BpError
from bp_data.sources.base import Counts

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".parquet": "parquet", ".pq": "parquet", ".txt": "text", ".text": "text", ".md": "markdown", ".markdown": "markdown",
}  # fmt: skip
COMPRESSED = {".gz", ".zst", ".zstd"}
_PEEK = 1 << 16
_UTF16 = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"{\0", "utf-16-le"), (b"\0{", "utf-16-be"),
          (b"[\0", "utf-16-le"), (b"\0[", "utf-16-be"))  # fmt: skip


def kind_by_name(name: str) -> str:
    """The kind that a file name claims, looking through `.gz` and `.zst`; "" for an unknown suffix."""
    path = Path(name.lower())
    suffix = path.suffix
    if suffix in COMPRESSED:
        suffix = Path(path.stem).suffix
    return SUFFIXES.get(suffix, "")


@contextlib.contextmanager
def open_bytes(path: str, counts: Counts) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file or stdin ("-"), decompressed and in UTF-8, with its kind; everything opened is closed again.

    Yields:
        The stream, and one of jsonl, json, csv, tsv, parquet, text, markdown.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_UNREADABLE`, `DEP_ZSTANDARD_MISSING`.
    """
    if path == "-":
        yield _opened(sys.stdin.buffer, path, counts)
        return
    try:
        raw = Path(path).open("rb")  # noqa: SIM115 - closed by the block below
    except FileNotFoundError:
        raise BpError(
            "INPUT_DATASET_NOT_FOUND", f"there is no file {path}", "check the path with ls"
        ) from None
    except OSError as error:
        raise BpError("INPUT_DATASET_UNREADABLE", f"{path}: {error.strerror}", f"ls -l {path}") from None
    with raw:
        yield _opened(raw, path, counts)


def _opened(raw: BinaryIO, path: str, counts: Counts) -> tuple[BinaryIO, str]:
    stream = _buffered(raw)
    head = stream.peek(4)[:4]
    if head.startswith(b"\x1f\x8b"):
        stream = _buffered(cast(BinaryIO, gzip.GzipFile(fileobj=stream)))
    elif head == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            raise BpError(
                "DEP_ZSTANDARD_MISSING", f"{path} is zstd-compressed", 'pip install "bp-data[zstd]"'
            ) from None
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        stream = _buffered(cast(BinaryIO, reader))
    head = _peek(stream, path)
    if head.startswith(b"PAR1"):
        return stream, "parquet"
    for mark, encoding in _UTF16:
        if head.startswith(mark) and len(head) > 2:
            counts.notes.append(f"{path}: recoded from {encoding.upper()} to UTF-8")
            stream = _buffered(cast(BinaryIO, _Recoded(stream, encoding)))
            head = _peek(stream, path)
            break
    return stream, _kind(path, head)


def _buffered(raw: BinaryIO) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, _PEEK)  # pyright: ignore


def _peek(stream: io.BufferedReader, path: str) -> bytes:
    try:
        return stream.peek(_PEEK)
    except (OSError, EOFError, ValueError) as error:
        raise damaged(path, error) from None
    except Exception as error:
        if type(error).__module__.startswith("zstandard"):
            raise damaged(path, error) from None
        raise


def damaged(path: str, error: Exception) -> BpError:
    """The error for a compressed file that does not decompress."""
    return BpError("INPUT_DATASET_UNREADABLE", f"{path} cannot be decompressed: {error}", f"gzip -t {path}")


def _kind(path: str, head: bytes) -> str:
    named = kind_by_name(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if named in ("csv", "tsv", "text", "markdown"):
        return named
    if start[:1] == b"[" and named != "jsonl":
        return "json"
    if start[:1] == b"{":
        first, newline, more = start.partition(b"\n")
        if named == "json" or (not named and newline and more.strip()):
            try:
                orjson.loads(first)
            except orjson.JSONDecodeError:
                return "json" if named == "json" or first.strip() in (b"{", b"") else "jsonl"
            return "jsonl" if more.strip() else "json"
        return "jsonl"
    if named:
        return named
    return "jsonl" if path == "-" else "text"


class _Recoded(io.RawIOBase):
    """A byte stream in another encoding, read as UTF-8; what does not decode becomes U+FFFD."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder(encoding)("replace").decode
        self._left = b""
        self._first = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore
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
