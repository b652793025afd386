"""Where rows come from: files, directories, globs, stdin, the Hub, third parties.

A source is given by a string. Directories and globs expand to their data files in sorted order. Each opens as an
iterator of batches of `(line, row)` or `Rejected`.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.sources import array, columns, jsonl, prose, remote, table
from bp_data.sources.base import Batch, Counts, Limits, Row
from bp_data.sources.streams import COMPRESSED, SUFFIXES, damaged, kind_by_name, open_bytes

__all__ = ["Batch", "Counts", "Limits", "Row", "Source", "expand"]


@dataclasses.dataclass
class Source:
    """One file, stream or remote split.

    Args:
        spec: what opens it.
        name: what examples and refusals call it.
    """

    spec: str
    name: str
    counts: Counts = dataclasses.field(default_factory=Counts)

    @property
    def is_file(self) -> bool:
        """Whether it can be opened twice: a regular file, no pipe and no remote source."""
        return self.spec != "-" and not _scheme(self.spec) and Path(self.spec).is_file()

    def batches(self, limits: Limits) -> Iterator[Batch]:
        """The rows, as lists of `(line, row)` or `Rejected`."""
        if name := _scheme(self.spec):
            rest = self.spec.partition(":")[2]
            opener = remote.hub if name == "hf" else remote.scheme(name)
            if opener is None:
                raise _missing(self.spec)
            yield from remote.batches(opener(rest), self.name)
            return
        with open_bytes(self.spec, self.counts) as (stream, kind):
            try:
                yield from self._parsed(stream, kind, limits)
            except (EOFError, OSError, zlib.error) as error:
                hint = f"{self.name} cannot be read further: {error}"
                yield [Rejected(self.name, 0, "source_failed", "", hint, "")]
            except Exception as error:
                if type(error).__module__.startswith("zstandard"):
                    raise damaged(self.name, error) from None
                raise

    def _parsed(self, stream, kind: str, limits: Limits) -> Iterator[Batch]:  # noqa: ANN001
        if kind == "json":
            return array.batches(stream, self.name, limits, self.counts)
        if kind in ("csv", "tsv"):
            delimiter = "\t" if kind == "tsv" else ""
            return table.batches(stream, self.name, limits, self.counts, delimiter=delimiter)
        if kind == "parquet":
            return columns.batches(stream, self.name, limits, self.counts)
        if kind in ("text", "markdown"):
            by = (
                limits.text_by
                if limits.text_by != "auto"
                else "document"
                if kind == "markdown"
                else "paragraph"
            )
            return prose.batches(stream, self.name, limits, self.counts, by=by)
        return jsonl.batches(stream, self.name, limits, self.counts)


def _scheme(spec: str) -> str:
    head, colon, _ = spec.partition(":")
    windows_drive = len(head) == 1
    return head if colon and not windows_drive and head.isidentifier() and not Path(spec).exists() else ""


def _missing(spec: str) -> BpError:
    return BpError(
        "INPUT_DATASET_NOT_FOUND", f"there is no file, directory or source {spec}", f"ls {Path(spec).parent}"
    )


def expand(*specs: str | os.PathLike[str]) -> list[Source]:
    """The sources behind paths, directories, globs, "-", `hf:` ids and third-party schemes.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_EMPTY` for a directory without data files.
    """
    found: list[tuple[str, str]] = []
    for spec in specs:
        text = os.fspath(spec)
        if text == "-":
            found.append(("-", "stdin"))
        elif _scheme(text):
            found.append((text, text))
        elif Path(text).is_dir():
            root = Path(text)
            inside = sorted(
                p for p in root.rglob("*") if p.is_file() and _is_data(p) and not _hidden(p, root)
            )
            if not inside:
                known = ", ".join(SUFFIXES)
                raise BpError("INPUT_DATASET_EMPTY", f"{text} holds no data file ({known})", f"ls -R {text}")
            found += [(str(p), p.relative_to(root).as_posix()) for p in inside]
        elif Path(text).exists():
            found.append((text, Path(text).name))
        elif glob.has_magic(text):
            matches = sorted(p for p in glob.glob(text, recursive=True) if Path(p).is_file())  # noqa: PTH207 - absolute patterns
            if not matches:
                raise BpError("INPUT_DATASET_NOT_FOUND", f"nothing matches {text}", f"ls {text}")
            found += [(p, Path(p).name) for p in matches]
        else:
            raise _missing(text)
    names = [name for _, name in found]
    return [Source(path, name if names.count(name) == 1 else Path(path).as_posix()) for path, name in found]


def _is_data(path: Path) -> bool:
    return bool(kind_by_name(path.name)) or (path.suffix in COMPRESSED and bool(kind_by_name(path.stem)))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
