"""The one way in which this package writes files: all of them whole, or none at all.

- Targets are checked before the work begins: none is an input, no two are one file (by link, by path, or by letter case
  alone), what exists is a regular file and was meant to be replaced, and the folder can be written.
- Each target is written beside its place, flushed, and moved there only when all of them are complete.
- A link is followed, so that the file behind it is replaced and the link stays.
- `-` is standard output: what is written there waits in a temporary file until everything is complete.
- A full disk, or any other refusal of the system, is an error with a code, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shlex
import shutil
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from bp_data.errors import BpError
from bp_data.excerpt import shown

STDOUT = Path("-")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclasses.dataclass
class WholeFile:
    """A file being written beside its place; `keep` decides whether it gets there."""

    path: Path
    partial: Path | None
    raw: IO[bytes]
    keep: bool = True

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            BpError: `RUNTIME_DISK_FULL`, `RUNTIME_WRITE_FAILED`.
        """
        try:
            self.raw.write(data)
        except OSError as error:
            raise unwritten(error, self.path) from error


@contextlib.contextmanager
def whole_files(
    *paths: Path, overwrite: bool, inputs: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[list[WholeFile]]:
    """Write files that appear whole and together, or not at all.

    Args:
        paths: where; `-` is standard output.
        overwrite: replace existing files.
        inputs: files that must not be replaced.

    Raises:
        BpError: as `check_outputs`; `RUNTIME_DISK_FULL`, `RUNTIME_WRITE_FAILED`.
    """
    check_outputs(*paths, overwrite=overwrite, inputs=inputs)
    files: list[WholeFile] = []
    try:
        for path in paths:
            files.append(_opened(path))
        yield files
        for file in files:
            try:
                file.raw.flush()
                if file.partial is not None:
                    os.fsync(file.raw.fileno())
                    file.raw.close()
            except OSError as error:
                raise unwritten(error, file.path) from error
        _deliver([file for file in files if file.keep])
    finally:
        for file in files:
            with contextlib.suppress(OSError):  # what could not be flushed was told; it is deleted here
                file.raw.close()
            if file.partial is not None:
                file.partial.unlink(missing_ok=True)


def _opened(path: Path) -> WholeFile:
    if path == STDOUT:
        return WholeFile(path, None, tempfile.TemporaryFile(prefix="bp-data-"))
    target = Path(os.path.realpath(path))
    try:
        partial = target.with_name(f".{os.urandom(6).hex()}.partial")
        return WholeFile(target, partial, partial.open("xb"))
    except OSError as error:
        raise unwritten(error, path) from error


def _deliver(files: list[WholeFile]) -> None:
    fresh: list[Path] = []
    try:
        for file in files:
            if file.partial is None:
                file.raw.seek(0)
                shutil.copyfileobj(file.raw, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                new = not file.path.exists()
                file.partial.replace(file.path)
                fresh += [file.path] if new else []
    except OSError as error:
        for path in fresh:
            path.unlink(missing_ok=True)
        if isinstance(error, BrokenPipeError):
            raise
        raise unwritten(error, file.path) from error


def unwritten(error: OSError, path: Path) -> BpError:
    """The error for a file that the system did not let us write."""
    name = "standard output (by way of a temporary file)" if path == STDOUT else shown(path)
    folder = tempfile.gettempdir() if path == STDOUT else path.parent
    if error.errno in _FULL:
        cause = f"no room left to write {name}; nothing was kept of it"
        return BpError("RUNTIME_DISK_FULL", cause, f"df -h {_quoted(folder)}", retryable=True)
    cause = f"{name} cannot be written: {error.strerror or error}"
    return BpError("RUNTIME_WRITE_FAILED", cause, f"ls -ld {_quoted(folder)}")


@contextlib.contextmanager
def room_for_temporary_files() -> Iterator[None]:
    """Turn a full disk under temporary files into an error with a code.

    Raises:
        BpError: `RUNTIME_DISK_FULL`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        folder = tempfile.gettempdir()
        cause = f"no room left for temporary files in {shown(folder)}"
        hint = f"df -h {_quoted(folder)}; then set TMPDIR to a folder with room"
        raise BpError("RUNTIME_DISK_FULL", cause, hint, retryable=True) from error


def check_outputs(*paths: Path, overwrite: bool, inputs: Iterable[str | os.PathLike[str]] = ()) -> None:
    """Refuse outputs before the work for them begins.

    Raises:
        BpError: `INPUT_OUTPUT_EXISTS` where a file is there and overwriting was not asked for, is no regular file, is
            an input, or is the other output; `INPUT_OUTPUT_FOLDER` where its folder is not there or cannot be written.
    """
    known = [Path(other) for other in inputs]
    for number, path in enumerate(paths):
        for other in paths[:number]:
            if _one_file(path, other):
                cause = f"two outputs are one file: {shown(other)} and {shown(path)}"
                raise BpError("INPUT_OUTPUT_EXISTS", cause, "name two different files")
        if path == STDOUT:
            continue
        if any(_one_file(path, other, exact=True) for other in known):
            hint = f"name another file, such as {_quoted(path.with_name(path.stem + '.new' + path.suffix))}"
            raise BpError("INPUT_OUTPUT_EXISTS", f"{shown(path)} is the input itself", hint)
        _check_place(path, overwrite)


def _check_place(path: Path, overwrite: bool) -> None:
    target = Path(os.path.realpath(path))
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a folder that may not be entered
        raise BpError(
            "INPUT_OUTPUT_FOLDER", f"{shown(path)} cannot be written: {error}", "choose another name"
        ) from None
    if mode is not None and not stat.S_ISREG(mode):
        what = next((name for test, name in _KINDS if test(mode)), "a link that leads nowhere")
        hint = "name a file, or - for standard output"
        raise BpError("INPUT_OUTPUT_EXISTS", f"{shown(path)} is {what}, no regular file", hint)
    if mode is not None and not overwrite:
        raise BpError("INPUT_OUTPUT_EXISTS", f"{shown(path)} exists", "repeat the command with --overwrite")
    folder = target.parent
    if not folder.is_dir():
        raise BpError(
            "INPUT_OUTPUT_FOLDER", f"there is no folder {shown(folder)}", f"mkdir -p {_quoted(path.parent)}"
        )
    if not os.access(folder, os.W_OK):
        raise BpError(
            "INPUT_OUTPUT_FOLDER", f"{shown(folder)} cannot be written", f"ls -ld {_quoted(path.parent)}"
        )


def _one_file(one: Path, other: Path, *, exact: bool = False) -> bool:
    """Whether two names lead to one file; unless `exact`, names that differ in letter case or accents' form alone do."""
    if (one == STDOUT) != (other == STDOUT):
        return False
    with contextlib.suppress(OSError, ValueError):
        if one.samefile(other):
            return True
    first, second = os.path.realpath(one), os.path.realpath(other)
    if not exact:
        first, second = (unicodedata.normalize("NFC", name).casefold() for name in (first, second))
    return first == second


def _quoted(path: str | os.PathLike[str]) -> str:
    return shlex.quote(os.fspath(path)) if shown(path) == os.fspath(path) else shown(path)
