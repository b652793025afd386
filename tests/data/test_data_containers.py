"""What a dataset may come in: folders, Arrow, objects in memory, pipes, odd JSON and CSV, and what is refused as binary."""

import bz2
import gzip
import io
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import tarfile
import threading
import zipfile

import bp_data
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bp_data import Example, Limits, Rejected
from bp_data.cli import cli
from bp_data.common import run_command

ROWS = [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def answers(source, **kwargs):
    items = list(bp_data.read(source, **kwargs))
    assert [item for item in items if isinstance(item, Rejected)] == []
    return [item.turns[-1].content for item in items]


ANSWERS = [row["completion"] for row in ROWS]


def refused(source, **kwargs):
    with pytest.raises(bp_data.BpError) as caught:
        list(bp_data.read(source, **kwargs))
    assert caught.value.hint
    return caught.value


# ------------------------------------------------------------------------------------------------- folders


def snapshot(root):
    write(root / "README.md", "# Title\n\nA card.\n")
    write(root / "LICENSE.txt", "MIT\n")
    write(root / "notes.txt", "Some prose.\n")
    write(root / ".hidden.jsonl", JSONL)
    write(root / ".cache" / "x.jsonl", JSONL)
    write(root / "dataset_infos.json", '{"default": {"features": {}}}')
    (root / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), root / "data" / "train-00000.parquet")
    return root


def test_a_hub_snapshot_gives_its_data_and_says_what_it_leaves(tmp_path):
    reader = bp_data.read(snapshot(tmp_path / "s"))
    assert [item.turns[-1].content for item in reader] == ANSWERS
    told = " ".join(reader.notes)
    assert all(name in told for name in ("README.md", "LICENSE.txt", "notes.txt", "--text-by"))
    asked = list(bp_data.read(tmp_path / "s", limits=Limits(text_by="document")))
    assert [item.text for item in asked if item.kind == "text"] == ["Some prose."]


def test_a_folder_of_text_alone_is_text_without_its_readme(tmp_path):
    write(tmp_path / "t" / "README", "no suffix")
    write(tmp_path / "t" / "readme.md", "about")
    write(tmp_path / "t" / "LICENCE.md", "MIT")
    write(tmp_path / "t" / "a.txt", "One.\n\nTwo.\n")
    assert [item.text for item in bp_data.read(tmp_path / "t")] == ["One.", "Two."]
    (tmp_path / "t" / "a.txt").unlink()
    assert refused(tmp_path / "t").code == "INPUT_DATASET_EMPTY"


def test_a_held_out_file_in_a_folder_is_told(tmp_path):
    write(tmp_path / "d" / "train.jsonl", JSONL)
    write(tmp_path / "d" / "test.jsonl", JSONL)
    reader = bp_data.read(tmp_path / "d")
    assert len(list(reader)) == 40
    assert any("test.jsonl looks held out" in note for note in reader.notes)


def test_each_real_file_is_read_once(tmp_path):
    root = tmp_path / "d"
    write(root / "a.jsonl", JSONL)
    os.symlink(root, root / "loop")
    os.symlink("a.jsonl", root / "b.jsonl")
    os.link(root / "a.jsonl", root / "c.jsonl")
    os.symlink("nowhere.jsonl", root / "broken.jsonl")
    for source in (root, f"{root}/**/*.jsonl", f"{root}/*.jsonl"):
        reader = bp_data.read(source)
        assert [item.turns[-1].content for item in reader] == ANSWERS
        assert any("further names of the same files" in note for note in reader.notes)
    assert any("broken.jsonl" in note for note in (lambda r: (list(r), r.notes)[1])(bp_data.read(root)))
    error = refused(root / "broken.jsonl")
    assert (error.code, "leads nowhere" in error.message) == ("INPUT_DATASET_NOT_FOUND", True)


def test_a_folder_of_many_files(tmp_path):
    for i in range(2_000):
        (tmp_path / f"{i:05}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert sum(1 for _ in bp_data.read(tmp_path, format="prompt_completion")) == 2_000


@pytest.mark.parametrize("name", ["", "no such", "x" * 5000, "nul\0name.jsonl", "x:y", "*.nothing"])
def test_names_behind_which_nothing_stands(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "here.jsonl", JSONL)
    assert refused(name).code == "INPUT_DATASET_NOT_FOUND"


def test_escape_characters_in_names_are_never_printed_raw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, data in (
        ("a\x1b[31m\nb.jsonl", JSONL), ("bad\x1b]0;x\x07.jsonl", '{"x": 1}\n' * 3), ("e\x1b.jsonl", ""),
        ("bin\x1b.jsonl", bytes(range(256)) * 9), ("h\x1b.csv", "a,a\n1,2\n"), ("p\x1b.parquet", "nothing"),
    ):  # fmt: skip
        write(tmp_path / name, data)
        for argv in (
            ["validate", name],
            ["report", name],
            ["clean", name],
            ["map", name, "--auto"],
            ["split", name],
        ):
            run_command(cli, argv, prog_name="bp-data")
            out, err = capsys.readouterr()
            assert "\x1b" not in out + err, argv
            assert "\\u001b" in out + err or "wrote" not in out
    run_command(cli, ["validate", "gone\x1b.jsonl"], prog_name="bp-data")
    assert "\x1b" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ Arrow, objects


def arrow_stream(path, rows=ROWS):
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return path


def test_arrow_files_streams_and_feather(tmp_path):
    import pyarrow.feather as feather

    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
    arrow_stream(tmp_path / "stream.arrow")
    arrow_stream(tmp_path / "named.jsonl")
    feather.write_feather(table, tmp_path / "a.feather")
    for name in ("file.arrow", "stream.arrow", "named.jsonl", "a.feather"):
        assert answers(tmp_path / name) == ANSWERS
    for name in ("file.arrow", "stream.arrow"):  # a pipe has no end to look at first
        with (tmp_path / name).open("rb") as file:
            code = "import sys, bp_data; print(sum(1 for _ in bp_data.read('-')))"
            done = subprocess.run(
                [sys.executable, "-c", code], input=file.read(), capture_output=True, check=True
            )
        assert done.stdout.strip() == b"20"
    data = (tmp_path / "stream.arrow").read_bytes()
    items = list(bp_data.read(write(tmp_path / "cut.arrow", data[: len(data) // 2])))
    assert isinstance(items[0], Example)
    assert isinstance(items[-1], Rejected), "what is missing is told"
    assert refused(write(tmp_path / "no.arrow", "text")).code == "INPUT_DATASET_UNREADABLE"


def saved(root, parts=2):
    """A folder as `Dataset.save_to_disk` writes it."""
    root.mkdir(parents=True)
    names = [f"data-{i:05}-of-{parts:05}.arrow" for i in range(parts)]
    for i, name in enumerate(names):
        arrow_stream(root / name, ROWS[i * len(ROWS) // parts : (i + 1) * len(ROWS) // parts])
    write(
        root / "state.json",
        json.dumps({"_data_files": [{"filename": name} for name in names], "_split": "x"}),
    )
    write(root / "dataset_info.json", json.dumps({"features": {"prompt": {"dtype": "string"}}}))
    return root


def test_folders_that_datasets_saved(tmp_path):
    assert answers(saved(tmp_path / "one")) == ANSWERS
    write(tmp_path / "both" / "dataset_dict.json", '{"splits": ["test", "train"]}')
    saved(tmp_path / "both" / "train")
    saved(tmp_path / "both" / "test", 1)
    reader = bp_data.read(tmp_path / "both")
    assert len(list(reader)) == 20
    assert any("not read: test" in note for note in reader.notes)
    assert len(answers(tmp_path / "both" / "test")) == 20
    (tmp_path / "one" / "data-00001-of-00002.arrow").unlink()
    assert refused(tmp_path / "one").code == "INPUT_DATASET_UNREADABLE"


def test_datasets_objects(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra bp-data[hf] is not installed")
    data = datasets.Dataset.from_list(ROWS)
    assert answers(data) == ANSWERS
    both = datasets.DatasetDict({"train": data, "test": data.select([0])})
    reader = bp_data.read(both)
    assert len(list(reader)) == 20
    assert any("not read: test" in note for note in reader.notes)
    both.save_to_disk(tmp_path / "saved")
    assert answers(tmp_path / "saved") == ANSWERS
    assert bp_data.report(data).rows_accepted == 20


COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}


@pytest.mark.parametrize(
    "given",
    [
        ROWS, tuple(ROWS), COLUMNS, pa.table(COLUMNS), {"train": ROWS, "test": ROWS[:2]}, pa.table(COLUMNS).to_batches()[0],
    ],
    ids=["list", "tuple", "columns", "table", "splits", "batch"],
)  # fmt: skip
def test_rows_in_memory(given, tmp_path):
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    assert answers(given) == ANSWERS
    assert bp_data.report(given).rows_accepted == 20
    assert bp_data.validate(given).accepted == 20
    assert len(bp_data.clean(given).kept) == 20
    parts = bp_data.split(given, ratio=0.2)
    assert len(parts.train) + len(parts.heldout) == 20


def test_objects_that_hold_no_rows():
    for given in ({"prompt": "a", "completion": "b"}, {"prompt": ["a"], "completion": []}, 3, {}):
        assert refused(given).code == "INPUT_VALIDATION_FAILED"
    endless = {"prompt": "a", "completion": "b"}
    endless["self"] = endless
    items = list(bp_data.read([ROWS[0], endless, ROWS[1]]))
    assert [getattr(item, "reason", "ok") for item in items] == ["ok", "nesting_too_deep", "ok"]


def test_parquet_of_every_type(tmp_path):
    import datetime
    import decimal

    table = pa.table({
        "prompt": pa.array([b"a", b"b"], pa.binary()),
        "completion": pa.array(["x", "y"]).dictionary_encode(),
        "when": pa.array([1, 2], pa.timestamp("ns")),
        "day": pa.array([datetime.date(2020, 1, 1)] * 2),
        "price": pa.array([decimal.Decimal("1.10"), None]),
        "blob": pa.array([b"\xff\xfe", b"\x00"], pa.binary()),
        "deep": pa.array([[{"a": [1, None]}], []]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = bp_data.read(tmp_path / "a.parquet")
    assert [turn.content for turn in first.turns] == ["a", "x"]
    assert (first.meta["day"], first.meta["price"], first.meta["blob"]) == ("2020-01-01", "1.10", "//4=")
    assert first.meta["when"].startswith("1970-01-01")
    assert "price" not in second.meta
    assert json.dumps(bp_data.to_row(first))


def test_parquet_leaves_in_small_batches(tmp_path):
    from bp_data.sources import Counts, columns

    rows = [{"prompt": str(i), "completion": os.urandom(1 << 19).hex()} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with (tmp_path / "a.parquet").open("rb") as file:
        sizes = [len(batch) for batch in columns.batches(file, "a", Limits(), Counts(), kind="parquet")]
    assert sum(sizes) == 40
    assert max(sizes) <= 8


# --------------------------------------------------------------------------------------- binary, compressed


def office(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("xl/workbook.xml", "<x/>")
    return path.read_bytes()


def database(path):
    with sqlite3.connect(path) as db:
        db.execute("create table t (prompt text)")
    db.close()
    return path.read_bytes()


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        info = tarfile.TarInfo("train.jsonl")
        info.size = len(JSONL)
        file.addfile(info, io.BytesIO(JSONL.encode()))
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.md", "a", "a.bin"])
def test_binary_is_refused_whatever_its_name(tmp_path, name):
    import pickle
    import random

    kinds = {
        "ZIP": office(tmp_path / "o.xlsx"), "SQLite": database(tmp_path / "d"), "PDF": b"%PDF-1.7\n%\xe2\xe3\n" * 40,
        "tar": tarred(), "NumPy": b"\x93NUMPY\x01\x00" + bytes(200), "pickle": pickle.dumps(ROWS),
        "binary": random.Random(0).randbytes(5000), "NUL": bytes(5000), "GGUF": b"GGUF" + bytes(50),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(50), "lz4": b"\x04\x22\x4d\x18" + b"x" * 99,
        "safetensors": (60).to_bytes(8, "little") + b'{"a": 1}' + b" " * 60,
    }  # fmt: skip
    for kind, data in kinds.items():
        for packed in (data, gzip.compress(data)):
            error = refused(write(tmp_path / name, packed))
            assert (error.code, kind in error.message) == ("INPUT_DATASET_UNREADABLE", True), kind


def test_a_file_that_a_crash_filled_with_nuls_keeps_its_rows(tmp_path):
    items = list(bp_data.read(write(tmp_path / "a.jsonl", JSONL.encode() + bytes(100_000))))
    assert [getattr(item, "reason", "ok") for item in items] == ["ok"] * 20 + ["nul_byte"]


@pytest.mark.parametrize("encoding", ["gbk", "cp1251", "shift_jis", "latin-1"])
def test_text_in_another_encoding_is_not_called_binary(tmp_path, encoding):
    text = {
        "gbk": "你好世界。",
        "cp1251": "Привет, мир.",
        "shift_jis": "こんにちは",
        "latin-1": "Ça va très bien.",
    }[encoding]
    items = list(bp_data.read(write(tmp_path / "a.txt", ((text * 30) + "\n").encode(encoding))))
    assert [item.reason for item in items] == ["invalid_utf8"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_wide_encodings(tmp_path, encoding, name):
    text = {"a.jsonl": JSONL, "a.json": json.dumps(ROWS), "a.csv": "prompt,completion\n" + "".join(
        f"{row['prompt']},{row['completion']}\n" for row in ROWS)}[name]  # fmt: skip
    if encoding == "utf-32-le":
        text = "\ufeff" + text
    assert answers(write(tmp_path / name, text.encode(encoding))) == ANSWERS


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("suffix", [*PACKERS, "zst"])
def test_compressed_whole_cut_and_damaged(tmp_path, suffix):
    import random

    if suffix == "zst":
        zstandard = pytest.importorskip("zstandard", reason="the extra bp-data[zstd] is not installed")
    pack = PACKERS.get(suffix) or (lambda data: zstandard.ZstdCompressor().compress(data))
    rng = random.Random(0)
    text = "".join(
        json.dumps({"prompt": str(i), "completion": rng.randbytes(90).hex()}) + "\n" for i in range(13_000)
    ).encode()
    data = pack(text)
    assert len(answers(write(tmp_path / f"a.jsonl.{suffix}", data))) == 13_000
    assert len(answers(write(tmp_path / f"b.jsonl.{suffix}", pack(JSONL.encode()) * 2))) == 40, (
        "members joined"
    )
    items = list(bp_data.read(write(tmp_path / f"c.jsonl.{suffix}", data[: len(data) // 2])))
    assert sum(isinstance(item, Example) for item in items) > 1500
    assert items[-1].reason == "source_failed"
    assert [item.line for item in items] == list(range(1, len(items) + 1))
    hurt = bytearray(data)
    hurt[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    items = list(bp_data.read(write(tmp_path / f"d.jsonl.{suffix}", bytes(hurt))))
    assert any(isinstance(item, Rejected) for item in items)
    error = refused(write(tmp_path / f"e.jsonl.{suffix}", data[:12]))
    assert error.code == "INPUT_DATASET_UNREADABLE"


# ------------------------------------------------------------------------------------------ pipes, devices


def test_devices_and_pipes_without_a_writer_are_refused(tmp_path, monkeypatch):
    from bp_data.sources import streams

    monkeypatch.setattr(streams, "PIPE_WAIT", 0.05)
    for path in ("/dev/zero", "/dev/null", "/dev/urandom"):
        error = refused(path, max_samples=5)
        assert (error.code, "device" in error.message) == ("INPUT_DATASET_UNREADABLE", True)
    os.mkfifo(tmp_path / "pipe")
    error = refused(tmp_path / "pipe")
    assert (error.code, "nobody" in error.message) == ("INPUT_DATASET_UNREADABLE", True)
    monkeypatch.setattr(streams, "PIPE_WAIT", 60)
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(JSONL.encode(),))
    thread.start()
    assert answers(tmp_path / "pipe") == ANSWERS
    thread.join()


def test_process_substitution_works_in_every_command(tmp_path):
    write(tmp_path / "a.jsonl", JSONL)
    run = f'"{sys.executable}" -m bp_data'
    for command in ("validate", "report", "clean", "split", "map --auto -o map.jsonl"):
        verb, _, rest = command.partition(" ")
        line = f"{run} {verb} <(cat a.jsonl) {rest}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
    assert len((tmp_path / "stdin.clean.jsonl").read_text().splitlines()) == 20
    both = [(tmp_path / f"stdin.{side}.jsonl").read_text() for side in ("train", "heldout")]
    assert len("".join(both).splitlines()) == 20


@pytest.mark.parametrize("feed", ["yes garbage", "cat /dev/urandom", "cat /dev/zero", """yes '{"x": 1}'"""])
def test_a_pipe_without_an_end_ends_at_max_samples(feed):
    line = f'{feed} | "{sys.executable}" -m bp_data validate - --max-samples 5 --json'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode in (1, 65)


def test_memory_while_good_rows_are_sought(tmp_path):
    import tracemalloc

    path = write(tmp_path / "a.jsonl", b'{"nope": \n' * 30_000)
    tracemalloc.start()
    try:
        count = sum(1 for _ in bp_data.read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000
    assert peak < 10 << 20
