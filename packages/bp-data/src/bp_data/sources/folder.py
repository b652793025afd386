"""Which files of a folder are its data.

- Data files (JSON, CSV, Parquet, Arrow) are read; text only where it was asked for, or where there is nothing else. A
  README, a licence and hidden files never are. What is left out is told.
- A folder that `datasets` saved says itself which files it has, and in which order; of several splits `train` is read.
- Links are followed, each real file once, whatever number of names lead to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import orjson

from bp_data.errors import BpError
from bp_data.excerpt import shown
from bp_data.sources.streams import SUFFIXES, kind_by_name

_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|authors|contributing|changelog|citation|code_of_conduct|security)\b",
    re.IGNORECASE,
)
_RECORDS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_HELD_OUT = re.compile(r"(^|[-_./])(test|validation|valid|val|dev|eval|heldout)([-_.]|$)", re.IGNORECASE)
_SHOWN = 5


def files_of(root: Path, *, text: bool) -> tuple[list[Path], list[str]]:
    """The data files of a folder in sorted order, and what is worth telling.

    Args:
        root: the folder.
        text: whether text files are asked for.

    Raises:
        BpError: `INPUT_DATASET_EMPTY`, `INPUT_DATASET_UNREADABLE`.
    """
    if saved := _saved(root):
        return saved
    data: list[Path] = []
    prose: list[Path] = []
    left: list[Path] = []
    for path in _walk(root):
        kind = kind_by_name(path.name)
        if not path.is_file() or not kind or _ABOUT.match(path.name) or path.name in _RECORDS:
            left.append(path)
        else:
            (prose if kind in ("text", "markdown") else data).append(path)
    if text or not data:
        data = sorted(data + prose)
    else:
        left += prose
    if not data:
        known = ", ".join(SUFFIXES)
        cause = f"{shown(root)} holds no data file ({known})"
        raise BpError("INPUT_DATASET_EMPTY", cause, f"ls -R {shown(root)}")
    unique = once(data)
    notes = []
    if left:
        names = ", ".join(shown(path.relative_to(root)) for path in sorted(left)[:_SHOWN])
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        ask = "; text is read with --text-by" if set(left) & set(prose) else ""
        notes.append(f"{shown(root)}: not read: {names}{more}{ask}")
    if len(unique) < len(data):
        notes.append(
            f"{shown(root)}: {len(data) - len(unique)} further names of the same files were left out"
        )
    held = [path for path in unique if _HELD_OUT.search(path.relative_to(root).as_posix())]
    if 0 < len(held) < len(unique):
        name = shown(held[0].relative_to(root))
        notes.append(f"{shown(root)}: {name} looks held out and is read too; name files to leave it out")
    return unique, notes


def _walk(root: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        cause = f"{shown(error.filename)} cannot be read: {error.strerror}"
        raise BpError("INPUT_DATASET_UNREADABLE", cause, f"ls -ld {shown(error.filename)}")

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        here = Path(folder).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(found)


def once(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lead to a file which an earlier one leads to."""
    seen: set[tuple[int, int]] = set()
    unique = []
    for path in paths:
        facts = path.stat()
        key = (facts.st_dev, facts.st_ino)
        if key not in seen:
            seen.add(key)
            unique.append(path)
    return unique


def _saved(root: Path) -> tuple[list[Path], list[str]] | None:
    """The files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if (record := _record(root / "dataset_dict.json")) is not None:
        splits = [str(name) for name in record.get("splits", ())]
        chosen = ["train"] if "train" in splits else splits
        files: list[Path] = []
        for name in chosen:
            part = _saved(root / name)
            if part is None:
                cause = f"{shown(root)} names the split {name!r}, whose folder is not whole"
                raise BpError("INPUT_DATASET_UNREADABLE", cause, f"ls -R {shown(root)}")
            files += part[0]
        others = [name for name in splits if name not in chosen]
        told = f"{shown(root)}: read the split 'train'; not read: {', '.join(others)}"
        return files, [told] if others else []
    if (record := _record(root / "state.json")) is None or "_data_files" not in record:
        return None
    files = [root / str(file.get("filename", "")) for file in record["_data_files"]]
    for path in files:
        if not path.is_file():
            cause = f"{shown(path)} is named by state.json and not there"
            raise BpError("INPUT_DATASET_UNREADABLE", cause, f"ls -l {shown(root)}")
    if not files:
        raise BpError("INPUT_DATASET_EMPTY", f"{shown(root)} holds no row", f"ls -l {shown(root)}")
    return files, []


def _record(path: Path) -> dict | None:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return value if isinstance(value, dict) else None
