"""Where rows come from: files, folders, globs, pipes, the Hub, third parties, and rows in memory.

A source is given by a string, or by an object that holds rows. Folders and globs expand to their data files in sorted
order. Each opens as an iterator of batches of `(line, row)` or `Rejected`.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bp_data.errors import BpError
from bp_data.example import Rejected
from bp_data.excerpt import shown
from bp_data.sources import array, columns, folder, jsonl, objects, prose, remote, table
from bp_data.sources.base import Batch, Counts, Limits, Row
from bp_data.sources.streams import open_bytes

__all__ = ["Batch", "Counts", "Limits", "Row", "Source", "expand"]


@dataclasses.dataclass
class Source:
    """One file, stream, remote split or object.

    Args:
        spec: what opens it; "" for rows in memory.
        name: what examples and refusals call it, safe to print.
        counts: what it saw beside rows.
        rows: rows in memory.
    """

    spec: str
    name: str
    counts: Counts = dataclasses.field(default_factory=Counts)
    rows: Any = None

    @property
    def is_file(self) -> bool:
        """Whether it can be opened twice: a regular file, no pipe and no remote source."""
        return self.spec not in ("", "-") and not _scheme(self.spec) and Path(self.spec).is_file()

    def batches(self, limits: Limits) -> Iterator[Batch]:
        """The rows, as lists of `(line, row)` or `Rejected`."""
        self.counts.failure = None
        if self.rows is not None:
            self.counts.unit = "row"
            yield from remote.batches(objects.rows_of(self.rows), self.name)
            return
        if name := _scheme(self.spec):
            rest = self.spec.partition(":")[2]
            opener = remote.hub if name == "hf" else remote.scheme(name)
            if opener is None:
                raise _missing(self.spec)
            self.counts.unit = "row"
            yield from remote.batches(opener(rest), self.name)
            return
        with open_bytes(self.spec, self.counts) as (stream, kind):
            self.counts.unit = (
                "row" if kind.startswith("json-") or kind in ("json", "parquet", "arrow") else "line"
            )
            last = 0
            for batch in self._parsed(stream, kind, limits):
                last = batch[-1].line if isinstance(batch[-1], Rejected) else batch[-1][0]
                yield batch
            if self.counts.failure is not None:
                hint = f"{self.name} cannot be read further, what follows is missing: {self.counts.failure}"
                yield [Rejected(self.name, last + 1, "source_failed", "", hint, "")]

    def _parsed(self, stream: BinaryIO, kind: str, limits: Limits) -> Iterator[Batch]:
        if kind in ("json", "json-sequence"):
            return array.batches(stream, self.name, limits, self.counts, sequence=kind == "json-sequence")
        if kind in ("csv", "tsv"):
            delimiter = "\t" if kind == "tsv" else ""
            return table.batches(stream, self.name, limits, self.counts, delimiter=delimiter)
        if kind in ("parquet", "arrow"):
            return columns.batches(stream, self.name, limits, self.counts, kind=kind)
        if kind in ("text", "markdown"):
            by = limits.text_by
            if by == "auto":
                by = "document" if kind == "markdown" else "paragraph"
            return prose.batches(stream, self.name, limits, self.counts, by=by)
        return jsonl.batches(stream, self.name, limits, self.counts)


def _scheme(spec: str) -> str:
    head, colon, _ = spec.partition(":")
    windows_drive = len(head) == 1
    return (
        head if colon and not windows_drive and head.isidentifier() and not _holds(Path(spec).exists) else ""
    )


def _missing(spec: str) -> BpError:
    if re.fullmatch(r"[\w.-]+/[\w-]+", spec, re.ASCII) and not _holds(Path(spec).parent.exists):
        return BpError(
            "INPUT_DATASET_NOT_FOUND",
            f"there is no file {shown(spec)}; a data set of the Hub is named with hf: before it",
            f"bp-data report {shown('hf:' + spec)}",
        )
    return BpError(
        "INPUT_DATASET_NOT_FOUND",
        f"there is no file, directory or source {shown(spec)}",
        f"ls {shown(Path(spec).parent)}",
    )


def expand(*specs: Any, text: bool = False) -> list[Source]:
    """The sources behind paths, directories, globs, "-", `hf:` ids, third-party schemes, and rows in memory.

    Args:
        specs: each a string or path, a list of them, or what `objects` knows.
        text: take the text files of directories, which are left out where there are data files.

    Raises:
        BpError: `INPUT_DATASET_NOT_FOUND`, `INPUT_DATASET_EMPTY` for a directory without data files,
            `INPUT_DATASET_UNREADABLE` for one that cannot be looked through, `INPUT_VALIDATION_FAILED` for an object
            that holds no rows.
    """
    sources: list[Source] = []
    for spec in specs:
        if objects.is_rows(spec):
            found, note = objects.parts(spec)
            told = Counts(notes=[note] if note else [])
            sources += [
                Source("", shown(name), told if at == 0 else Counts(), rows)
                for at, (name, rows) in enumerate(found)
            ]
        elif isinstance(spec, list | tuple) and spec:
            sources += expand(*spec, text=text)
        elif isinstance(spec, str | os.PathLike):
            sources += _behind(os.fspath(spec), text)
        else:
            cause = f"{type(spec).__name__} is neither a path nor rows"
            raise BpError("INPUT_VALIDATION_FAILED", cause, 'give a path: bp_data.read("train.jsonl")')
    names, again = Counter(source.name for source in sources), Counter[str]()
    for source in sources:
        name = source.name
        if names[name] > 1:
            again[name] += 1
            source.name = shown(Path(source.spec).as_posix()) if source.spec else f"{name}-{again[name]}"
    return sources


def _behind(text: str, prose: bool) -> list[Source]:
    if not text:
        raise BpError(
            "INPUT_DATASET_NOT_FOUND", "the name of the dataset is empty", "bp-data validate train.jsonl"
        )
    if text == "-":
        return [Source("-", "stdin")]
    if _scheme(text):
        return [Source(text, shown(text))]
    path = Path(text)
    if _holds(path.is_dir):
        files, notes = folder.files_of(path, text=prose)
        found = [Source(str(p), shown(p.relative_to(path).as_posix())) for p in files]
        found[0].counts.notes += notes
        return found
    if _holds(path.exists):
        return [Source(text, shown(path.name))]
    if glob.has_magic(text):
        matches = sorted(Path(p) for p in glob.glob(text, recursive=True))  # noqa: PTH207 - absolute patterns
        files = [p for p in matches if p.is_file()]
        if not files:
            raise BpError("INPUT_DATASET_NOT_FOUND", f"nothing matches {shown(text)}", f"ls {shown(text)}")
        unique = folder.once(sorted(files, key=lambda p: (len(p.parts), p)))
        found = [Source(str(p), shown(p.name)) for p in sorted(unique)]
        if len(unique) < len(files):
            more = len(files) - len(unique)
            found[0].counts.notes.append(
                f"{shown(text)}: {more} further names of the same files were left out"
            )
        return found
    if _holds(path.is_symlink):
        cause = f"{shown(text)} is a link that leads nowhere"
        raise BpError("INPUT_DATASET_NOT_FOUND", cause, f"ls -l {shown(text)}")
    raise _missing(text)


def _holds(test: Any) -> bool:
    try:
        return test()
    except (OSError, ValueError):  # a name too long for the system, or a NUL in it: no file has it
        return False
