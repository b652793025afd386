"""Every code of bp-data, provoked through its public calls, and caught by `bp_data.BpError`."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from pathlib import Path

import bp_data
import pytest
from bp_data.errors import CODES
from provoked import provoke, without_a_row

GOOD = '{"prompt": "Why?", "completion": "So."}\n{"prompt": "Who?", "completion": "She."}\n'
ALIKE = '{"prompt": "Why?", "completion": "So."}\n' * 4


class Place:
    """A folder of files, and the surroundings that a row changes."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.patch = folder, monkeypatch

    def file(self, name="in.jsonl", text=GOOD):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path


def read(p, *file, **more):
    return list(bp_data.read(p.file(*file), **more))


def without(p, module):
    p.patch.setitem(sys.modules, module, None)


def no_zstd(p):
    without(p, "zstandard")
    read(p, "a.jsonl.zst", b"\x28\xb5\x2f\xfd1234")


def no_datasets(p):
    without(p, "datasets")
    list(bp_data.read("hf:openai/gsm8k"))


def to_dataset(p):
    without(p, "datasets")
    bp_data.to_dataset(bp_data.read(p.file()))


def hub(p):
    p.patch.setenv("HF_HUB_OFFLINE", "1")
    p.patch.setitem(sys.modules, "datasets", _Datasets())
    list(bp_data.read("hf:nobody/nothing"))


class _Datasets:
    """What `datasets` does where the Hub has no such dataset."""

    @staticmethod
    def load_dataset(*args, **more):
        raise FileNotFoundError("Dataset 'nobody/nothing' doesn't exist on the Hub")


def plugin(p):
    info = p.folder / "demo-1.dist-info"
    p.file("demo-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
    p.file("demo-1.dist-info/entry_points.txt", "[bp_data.sources]\nbroken = provoked_source:missing\n")
    p.file("provoked_source.py", "def rows(rest):\n    yield {}\n")
    p.patch.syspath_prepend(str(info.parent))
    list(bp_data.read("broken:1"))


def broken_mapper(p):
    p.file("mine_failing.py", "raise ImportError('nothing here')\n")
    p.patch.syspath_prepend(str(p.folder))
    bp_data.read(p.file(), mapper="lower", mapper_modules=("mine_failing",))


def written(p, path):
    bp_data.convert(bp_data.read(p.file()), path)


def refused_write(p, number):
    """The system refuses to put the finished file in its place."""

    def refuse(self, target):
        raise OSError(number, os.strerror(number))

    p.patch.setattr(Path, "replace", refuse)
    written(p, p.folder / "out.jsonl")


def closed(p):
    folder = p.folder / "closed"
    folder.mkdir()
    p.patch.setattr(os, "access", lambda path, mode, **_: "closed" not in os.fspath(path))
    written(p, folder / "out.jsonl")


def listening(p):
    where = p.folder / "s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(where))
        list(bp_data.read(where))


ROWS = {
    # what is named
    "no source": ("INPUT_DATASET_NOT_FOUND", "no source", lambda p: bp_data.read()),
    "an empty name": ("INPUT_DATASET_NOT_FOUND", "empty", lambda p: bp_data.read("")),
    "no such file": ("INPUT_DATASET_NOT_FOUND", "no.jsonl", lambda p: bp_data.report(p.folder / "no.jsonl")),
    "no such scheme": ("INPUT_DATASET_NOT_FOUND", "nobody:1", lambda p: list(bp_data.read("nobody:1"))),
    "a pattern without a match": (
        "INPUT_DATASET_NOT_FOUND",
        "nothing matches",
        lambda p: bp_data.validate(str(p.folder / "*.csv")),
    ),
    "a NUL in the name": ("INPUT_DATASET_NOT_FOUND", "", lambda p: list(bp_data.read("a\0b.jsonl"))),
    "an empty file": ("INPUT_DATASET_EMPTY", "no row", lambda p: bp_data.detect(p.file("e.jsonl", ""))),
    "an empty array": ("INPUT_DATASET_EMPTY", "no row", lambda p: read(p, "e.json", "[]")),
    "an empty folder": (
        "INPUT_DATASET_EMPTY",
        "",
        lambda p: list(bp_data.read((p.file("d/none"), p.folder / "d" / "none")[1].parent)),
    ),
    "a picture": (
        "INPUT_DATASET_UNREADABLE",
        "picture",
        lambda p: read(p, "a.jsonl", b"\x89PNG\r\n\x1a\n1234"),
    ),
    "a zip": ("INPUT_DATASET_UNREADABLE", "", lambda p: read(p, "a.jsonl", b"PK\x03\x04rest of it")),
    "a cut gzip": ("INPUT_DATASET_UNREADABLE", "", lambda p: read(p, "a.jsonl.gz", b"\x1f\x8b\x08\0\0")),
    "no Parquet": ("INPUT_DATASET_UNREADABLE", "", lambda p: read(p, "a.parquet", "hello")),
    "a device": ("INPUT_DATASET_UNREADABLE", "device", lambda p: list(bp_data.read("/dev/full"))),
    "a socket": ("INPUT_DATASET_UNREADABLE", "", listening),
    "a header with a name twice": (
        "INPUT_CSV_HEADER_INVALID",
        "header",
        lambda p: read(p, "a.csv", "prompt,prompt\na,b\n"),
    ),
    "a header with no name": (
        "INPUT_CSV_HEADER_INVALID",
        "header",
        lambda p: read(p, "a.csv", "prompt,\na,b\n"),
    ),
    "a column of another length": (
        "INPUT_VALIDATION_FAILED",
        "differ in length",
        lambda p: bp_data.read({"prompt": ["a"], "completion": []}),
    ),
    "a number as a source": ("INPUT_VALIDATION_FAILED", "", lambda p: bp_data.read(3)),
    # formats and mappings
    "a format by no name": (
        "INPUT_FORMAT_UNKNOWN",
        "no format 'shargpt'",
        lambda p: bp_data.read(p.file(), format="shargpt"),
    ),
    "an unclear format": (
        "INPUT_FORMAT_UNCLEAR",
        "0.80",
        lambda p: read(p, "a.jsonl", '{"left": "a", "right": "b"}\n' * 3),
    ),
    "a mapping to nothing": (
        "INPUT_MAPPING_INVALID",
        "no field",
        lambda p: bp_data.read(p.file(), mapping="a=promptt"),
    ),
    "a mapping without a sign": (
        "INPUT_MAPPING_INVALID",
        "form field=target",
        lambda p: bp_data.read(p.file(), mapping="prompt"),
    ),
    "two fields to one target": (
        "INPUT_MAPPING_INVALID",
        "same target",
        lambda p: bp_data.read(p.file(), mapping="a=prompt,b=prompt"),
    ),
    "a mapping that is no JSON": (
        "INPUT_MAPPING_INVALID",
        "no JSON",
        lambda p: bp_data.read(p.file(), mapping="{'a'"),
    ),
    "a mapping with an unknown key": (
        "INPUT_MAPPING_INVALID",
        "unknown key",
        lambda p: bp_data.read(p.file(), mapping='{"fields": {"a": "prompt"}, "feilds": {}}'),
    ),
    "a mapping file that is not there": (
        "INPUT_MAPPING_INVALID",
        "cannot be read",
        lambda p: bp_data.read(p.file(), mapping="@no.json"),
    ),
    "a mapper by no name": (
        "INPUT_MAPPER_UNKNOWN",
        "no mapper",
        lambda p: bp_data.read(p.file(), mapper="upper"),
    ),
    "a mapper that cannot be imported": ("INPUT_MAPPER_FAILED", "mine_failing", broken_mapper),
    "a source that cannot be imported": ("INPUT_SOURCE_FAILED", "broken", plugin),
    # settings
    "a pattern that does not compile": (
        "INPUT_PATTERN_INVALID",
        "drop_match",
        lambda p: bp_data.clean(p.file(), drop_match="("),
    ),
    "a language by no name": (
        "INPUT_VALIDATION_FAILED",
        "language",
        lambda p: bp_data.clean(p.file(), language=("klingon",)),
    ),
    "a finding by no name": (
        "INPUT_VALIDATION_FAILED",
        "no finding",
        lambda p: bp_data.clean(p.file(), drop_finding=("refusl",)),
    ),
    "a ratio of two": ("INPUT_VALIDATION_FAILED", "ratio", lambda p: bp_data.split(p.file(), ratio=2.0)),
    "a gate of two": (
        "INPUT_VALIDATION_FAILED",
        "at most 1",
        lambda p: bp_data.report(p.file(), fail_on_dups=2.0),
    ),
    "a threshold of nothing": (
        "INPUT_VALIDATION_FAILED",
        "threshold",
        lambda p: bp_data.report(p.file(), dup_threshold=0.1),
    ),
    "a field to split by that no row has": (
        "INPUT_VALIDATION_FAILED",
        "no row has a field",
        lambda p: bp_data.split(p.file(), group_by="documnt"),
    ),
    "a tokenizer without a limit": (
        "INPUT_VALIDATION_FAILED",
        "limit",
        lambda p: bp_data.validate(p.file(), tokenizer=p.folder),
    ),
    "no tokenizer": (
        "INPUT_TOKENIZER_INVALID",
        "tokenizer.json",
        lambda p: bp_data.validate(p.file(), tokenizer=p.folder, max_length=9),
    ),
    # splitting
    "one row": (
        "INPUT_DATASET_TOO_SMALL",
        "at least 2",
        lambda p: bp_data.split(p.file("a.jsonl", GOOD.splitlines()[0] + "\n")),
    ),
    "all rows alike": (
        "INPUT_SPLIT_IMPOSSIBLE",
        "belong together",
        lambda p: bp_data.split(p.file("a.jsonl", ALIKE)),
    ),
    # outputs
    "an output that exists": (
        "INPUT_OUTPUT_EXISTS",
        "exists",
        lambda p: written(p, p.file("out.jsonl", "mine")),
    ),
    "the input as output": (
        "INPUT_OUTPUT_EXISTS",
        "input itself",
        lambda p: bp_data.convert(bp_data.read(p.file()), p.folder / "in.jsonl", overwrite=True),
    ),
    "a folder that is not there": (
        "INPUT_OUTPUT_FOLDER",
        "no folder",
        lambda p: written(p, p.folder / "no" / "out.jsonl"),
    ),
    "a folder that is closed": ("INPUT_OUTPUT_FOLDER", "cannot be written", closed),
    "a full disk": ("RUNTIME_DISK_FULL", "", lambda p: refused_write(p, errno.ENOSPC)),
    "a broken disk": ("RUNTIME_WRITE_FAILED", "", lambda p: refused_write(p, errno.EIO)),
    # what is not installed, and the Hub
    "zstd without its package": ("DEP_ZSTANDARD_MISSING", "zstd", no_zstd),
    "the Hub without its package": ("DEP_DATASETS_MISSING", "needs the package datasets", no_datasets),
    "a Dataset without its package": ("DEP_DATASETS_MISSING", "needs the package datasets", to_dataset),
    "a dataset that the Hub has not": ("HUB_DATASET_FAILED", "hf:nobody/nothing", hub),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_class_catches_it_with_cause_and_hint(row, tmp_path, monkeypatch):
    code, cause, call = ROWS[row]
    provoke(bp_data.BpError, code, cause, lambda: call(Place(tmp_path, monkeypatch)))


def test_every_code_has_a_row():
    assert without_a_row(CODES, ROWS) == {"INPUT_DATASET_REPORT_THRESHOLD"}, (
        "that one is told, with the report"
    )
    assert len(ROWS) > 40


def test_a_tripped_gate_is_told_with_the_report(tmp_path, capsys):
    from bp_data.cli import cli
    from bp_data.common import run_command

    file = tmp_path / "a.jsonl"
    file.write_text(ALIKE)
    assert run_command(cli, ["report", str(file), "--fail-on-dups", "0.1", "--json"]) == 65
    told = capsys.readouterr()
    assert json.loads(told.out)["failed_thresholds"]
    assert "[INPUT_DATASET_REPORT_THRESHOLD]" in told.err


def test_a_wrong_argument_to_a_function_is_pythons_own_error(tmp_path):
    for call in (
        lambda: bp_data.clean(),
        lambda: bp_data.Example(),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


def test_a_misspelt_setting_of_a_call_is_told_with_the_nearest_one():
    with pytest.raises(bp_data.BpError, match="'ratoi'; did you mean 'ratio'") as error:
        bp_data.split("x.jsonl", ratoi=0.5)
    assert error.value.code == "INPUT_VALIDATION_FAILED"
