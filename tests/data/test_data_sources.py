"""Every source gives the same rows, and every bad row is one numbered refusal."""

import codecs
import gzip
import json
import subprocess
import sys

import bp_data
import pytest
from bp_data import Example, Limits, Rejected

ROWS = [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(path, **kwargs):
    return list(bp_data.read(path, **kwargs))


def answers(items):
    return [item.turns[-1].content for item in items]


def write(path, data):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def csv_of(rows, sign=","):
    return (
        "prompt"
        + sign
        + "completion\r\n"
        + "".join(f"{r['prompt']}{sign}{r['completion']}\r\n" for r in rows)
    )


def parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=7)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", JSONL),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n")),
        ("bom.jsonl", b"\xef\xbb\xbf" + JSONL.encode()),
        ("utf16.jsonl", codecs.BOM_UTF16_LE + JSONL.encode("utf-16-le")),
        ("utf16be.jsonl", JSONL.encode("utf-16-be")),
        ("noend.jsonl", JSONL.rstrip("\n")),
        ("a.json", json.dumps(ROWS)),
        ("pretty.json", json.dumps(ROWS, indent=2)),
        ("object.json", json.dumps({"version": "1, [2]", "nested": {"x": [1]}, "data": ROWS})),
        ("lines.json", JSONL),
        ("a.csv", csv_of(ROWS)),
        ("bom.csv", b"\xef\xbb\xbf" + csv_of(ROWS, ";").encode()),
        ("a.tsv", csv_of(ROWS, "\t")),
        ("a.jsonl.gz", gzip.compress(JSONL.encode())),
        ("a.csv.gz", gzip.compress(csv_of(ROWS).encode())),
    ],
)
def test_the_same_rows_from_every_container(tmp_path, name, data):
    items = read(write(tmp_path / name, data))
    assert answers(items) == [row["completion"] for row in ROWS]


def test_parquet(tmp_path):
    assert answers(read(parquet(tmp_path / "a.parquet"))) == [row["completion"] for row in ROWS]


def test_zstd(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the extra bp-data[zstd] is not installed")
    data = zstandard.ZstdCompressor().compress(JSONL.encode())
    assert len(read(write(tmp_path / "a.jsonl.zst", data))) == len(ROWS)


def test_stdin_directory_and_glob(tmp_path):
    code = "import bp_data; print(sum(1 for _ in bp_data.read('-')))"
    done = subprocess.run([sys.executable, "-c", code], input=JSONL.encode(), capture_output=True, check=True)
    assert done.stdout.strip() == b"20"
    (tmp_path / "deep").mkdir()
    write(tmp_path / "b.jsonl", JSONL)
    write(tmp_path / "deep" / "a.json", json.dumps(ROWS))
    write(tmp_path / "notes.log", "not data")
    items = read(tmp_path)
    assert len(items) == 40
    assert [items[0].id, items[20].id] == ["b.jsonl:1", "deep/a.json:1"]
    assert len(read(str(tmp_path / "**" / "*.json*"))) == 40


def test_markdown_is_a_document_and_text_is_paragraphs(tmp_path):
    body = "# Title\n\nOne line.\nMore.\n\nSecond paragraph.\n"
    assert [i.text for i in read(write(tmp_path / "a.md", body))] == [body.strip("\n")]
    items = read(write(tmp_path / "a.txt", body))
    assert [(i.line, i.text) for i in items] == [
        (1, "# Title"),
        (3, "One line.\nMore."),
        (6, "Second paragraph."),
    ]
    by_line = read(tmp_path / "a.txt", limits=Limits(text_by="line"))
    assert [i.line for i in by_line] == [1, 3, 4, 6]


BAD = [
    (b'{"prompt": "a", "completion": "b\xff"}', "invalid_utf8"),
    (b'{"prompt": "a", "completion": "b\x00"}', "nul_byte"),
    (b'{"prompt": "a", "completion": "b\tc"}', "raw_control_character"),
    (b'{"prompt": "a", "completion": NaN}', "not_finite"),
    (b'{"prompt": "a", "completion": 1e999}', "not_finite"),
    (b'{"prompt": "a", "completion": "\\ud800"}', "lone_surrogate"),
    (b'{"prompt": "a"} {"completion": "b"}', "trailing_data"),
    (b'{"prompt": "a", completion: "b"}', "invalid_json"),
    (b"[" * 3000, "nesting_too_deep"),
    (b'["a"]', "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"prompt": "a", "completion": null}', "missing_field"),
    (b'{"prompt": "a", "completion": {"x": [}}', "invalid_json"),
    (b'{"prompt": "", "completion": "b"}', "empty_field"),
    (b'{"prompt": "a", "completion": " \\n"}', "empty_target"),
    (b'{"foo": 1}', "unrecognised_format"),
]


def test_each_bad_line_is_one_refusal_with_its_line_number(tmp_path):
    good = [json.dumps(row).encode() for row in ROWS]
    lines = good[:2] + [line for pair in zip([b for b, _ in BAD], good[2:], strict=False) for line in pair]
    path = write(tmp_path / "bad.jsonl", b"\n".join(lines) + b"\n\n  \n" + b'{"prompt": "cut o')
    reader = bp_data.read(path)
    items = list(reader)
    refused = {item.line: item.reason for item in items if isinstance(item, Rejected)}
    expected = {3 + 2 * i: reason for i, (_, reason) in enumerate(BAD)} | {
        len(lines) + 3: "truncated_last_line"
    }
    assert refused == expected
    assert reader.blank == 2
    assert len(items) == len(lines) + 1
    assert all(item.hint and len(item.excerpt) <= 80 for item in items if isinstance(item, Rejected))


def test_a_long_line_is_skipped_without_being_held(tmp_path):
    long = b'{"prompt": "a", "completion": "' + b"x" * 300_000 + b'"}'
    path = write(tmp_path / "long.jsonl", JSONL.encode() + long + b"\n" + JSONL.encode())
    items = read(path, limits=Limits(max_row_bytes=4096))
    assert [(i.line, i.reason) for i in items if isinstance(i, Rejected)] == [(21, "line_too_long")]
    assert [i.line for i in items] == list(range(1, 42))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "object.json", "a.csv", "a.txt", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    import tracemalloc

    rows = [{"prompt": f"question {i} " + "x" * 400, "completion": "y" * 400} for i in range(12_000)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    data = {
        "a.jsonl": lines, "a.json": json.dumps(rows), "object.json": json.dumps({"data": rows}, indent=1),
        "a.csv": csv_of(rows), "a.txt": lines.replace("\n", "\n\n"), "a.jsonl.gz": gzip.compress(lines.encode(), 1),
    }[name]  # fmt: skip
    path = write(tmp_path / name, data)
    del rows, lines, data
    tracemalloc.start()
    try:
        count = sum(1 for _ in bp_data.read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 12_000
    assert peak < 6 << 20, "10 MB of rows pass through"


@pytest.mark.slow
def test_a_200_mb_line_stays_within_the_memory_budget(tmp_path):
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.write(JSONL.encode() + b'{"prompt": "a", "completion": "')
        for _ in range(200):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + JSONL.encode())
    code = (
        "import bp_data, resource, sys; items = list(bp_data.read(sys.argv[1]));"
        "print(len(items), items[20].reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    rows, reason, peak = out.split()
    assert (rows, reason) == ("41", "line_too_long")
    assert int(peak) < 300


def test_big_integers_stay_exact(tmp_path):
    big = 2**64 + 1
    path = write(tmp_path / "a.jsonl", json.dumps({"prompt": "a", "completion": "b", "seed": big}) + "\n")
    assert read(path)[0].meta["seed"] == big


def test_a_duplicate_key_is_told(tmp_path):
    path = write(tmp_path / "a.jsonl", JSONL + '{"prompt": "a", "prompt": "b", "completion": "c"}\n')
    result = bp_data.validate(path)
    assert result.counts == {"duplicate_key": 1}
    assert "'prompt'" in result.issues[0].expected


def test_array_elements_fail_one_by_one(tmp_path):
    good = json.dumps(ROWS[0])
    path = write(tmp_path / "a.json", f'[{good}, {{"prompt": }}, 3, {good}, {{"prompt": "x\\q"}}, {good}')
    reader = bp_data.read(path)
    assert [(i.line, getattr(i, "reason", "ok")) for i in reader] == [
        (1, "ok"), (2, "invalid_json"), (3, "not_an_object"), (4, "ok"), (5, "invalid_json"), (6, "ok"),
    ]  # fmt: skip
    assert any("never closed" in note for note in reader.notes)
    path = write(tmp_path / "cut.json", f'[{good}, {{"prompt": "a", "comp')
    assert [getattr(i, "reason", "ok") for i in read(path)] == ["ok", "truncated_last_line"]


def test_array_elements_larger_than_a_block_and_over_the_limit(tmp_path):
    rows = [{"prompt": "a", "completion": "x" * n + '\\"]},{'} for n in (10, 200_000, 3_000_000, 5)]
    path = write(tmp_path / "a.json", json.dumps(rows))
    assert answers(read(path)) == [row["completion"] for row in rows]
    items = read(path, limits=Limits(max_row_bytes=1_000_000))
    assert [getattr(i, "reason", "ok") for i in items] == ["ok", "ok", "line_too_long", "ok"]


def test_an_object_file_without_rows_is_one_row(tmp_path):
    assert answers(read(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=1)))) == ["answer 0"]


def test_data_field_and_the_note_about_other_arrays(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"train": ROWS[:2], "test": ROWS[2:5]}))
    reader = bp_data.read(path)
    assert len(list(reader)) == 2
    assert any("'test'" in note for note in reader.notes)
    assert len(read(path, limits=Limits(data_field="test"))) == 3


def test_csv_quotes_ragged_rows_and_bytes(tmp_path):
    data = (
        b'prompt,completion\n"two\nlines","say ""hi"""\nshort\na,b,c\nbad,"never closed\nfine,yes\n'
        b"5 inch disk,ok\n\xff,x\nlast,row\n"
    )
    items = read(write(tmp_path / "a.csv", data))
    found = [(i.line, getattr(i, "reason", "ok")) for i in items]
    assert found == [
        (2, "ok"), (4, "ragged_row"), (5, "ragged_row"), (6, "unclosed_quote"), (7, "ok"), (8, "ok"),
        (9, "invalid_utf8"), (10, "ok"),
    ]  # fmt: skip
    assert items[0].turns[0].content == "two\nlines"
    assert items[0].turns[1].content == 'say "hi"'
    assert items[-1].turns[1].content == "row"


def test_csv_keeps_cells_as_written_and_reads_200_kb_cells(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,completion,code\nnull,007,nan\n" + "y" * 200_000 + ",b,c\n")
    items = read(path)
    assert [items[0].turns[0].content, items[0].turns[1].content, items[0].meta["code"]] == [
        "null",
        "007",
        "nan",
    ]
    assert len(items[1].turns[0].content) == 200_000


@pytest.mark.parametrize("header", ["prompt,prompt\n", "prompt,\n"])
def test_csv_header_must_name_each_column_once(tmp_path, header):
    with pytest.raises(bp_data.BpError) as caught:
        read(write(tmp_path / "a.csv", header + "a,b\n"))
    assert caught.value.code == "INPUT_CSV_HEADER_INVALID"


def test_parquet_nulls_are_absent_keys(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, call]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    items = read(tmp_path / "a.parquet")
    assert items[0].turns[1].content == ""
    assert items[0].turns[1].tool_calls[0]["function"]["arguments"] == {"x": 1}
    assert items[1].turns[1].tool_calls == ()


def test_errors_name_the_cause(tmp_path):
    cases = {
        "INPUT_DATASET_NOT_FOUND": lambda: read(tmp_path / "no.jsonl"),
        "INPUT_DATASET_EMPTY": lambda: read(write(tmp_path / "empty.jsonl", "")),
        "INPUT_DATASET_UNREADABLE": lambda: read(
            write(tmp_path / "a.parquet", b"PAR1 and nothing else PAR1")
        ),
        "INPUT_FORMAT_UNKNOWN": lambda: read(write(tmp_path / "a.jsonl", JSONL), format="sharegp"),
    }
    for code, provoke in cases.items():
        with pytest.raises(bp_data.BpError) as caught:
            provoke()
        assert caught.value.code == code
        assert caught.value.hint
    assert "sharegpt" in caught.value.hint


def test_a_cut_gzip_gives_its_rows_and_one_refusal(tmp_path):
    import random

    rng = random.Random(0)
    text = "".join(json.dumps({"prompt": str(rng.random()), "completion": "x"}) + "\n" for _ in range(5000))
    data = gzip.compress(text.encode())
    items = read(write(tmp_path / "a.jsonl.gz", data[: len(data) // 2]))
    assert items[-1].reason == "source_failed"
    assert sum(isinstance(i, Example) for i in items) > 1000


def test_a_third_party_source(tmp_path, monkeypatch):
    info = tmp_path / "demo_source-1.0.dist-info"
    info.mkdir()
    write(info / "METADATA", "Metadata-Version: 2.1\nName: demo-source\nVersion: 1.0\n")
    write(
        info / "entry_points.txt",
        "[bp_data.sources]\ndemo = demo_source:rows\nbroken = demo_source:missing\n",
    )
    body = "def rows(rest):\n    for i in range(int(rest)):\n        yield {'prompt': str(i), 'completion': 'b'}\n    raise OSError('gone')\n"
    write(tmp_path / "demo_source.py", body)
    monkeypatch.syspath_prepend(str(tmp_path))
    items = read("demo:3")
    assert [getattr(i, "reason", "ok") for i in items] == ["ok", "ok", "ok", "source_failed"]
    with pytest.raises(bp_data.BpError) as caught:
        read("broken:1")
    assert caught.value.code == "INPUT_SOURCE_FAILED"
    with pytest.raises(bp_data.BpError) as caught:
        read("nobody:1")
    assert caught.value.code == "INPUT_DATASET_NOT_FOUND"


def test_hub_sources_need_the_extra():
    code = (
        "import sys; sys.modules['datasets'] = None\nimport bp_data\n"
        "try: list(bp_data.read('hf:openai/gsm8k/main:train'))\n"
        "except bp_data.BpError as error: print(error.code, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DEP_DATASETS_MISSING pip install")


def test_text_stream_positions_survive_odd_separators(tmp_path):
    text = "a\u2028b\u0085c\x0bd"
    row = json.dumps({"prompt": text, "completion": "b"}, ensure_ascii=False).replace("\x0b", "\\u000b")
    items = read(write(tmp_path / "a.jsonl", row + "\n" + row + "\n"))
    assert [i.line for i in items] == [1, 2]
    assert items[0].turns[0].content == text


def test_hub_rows_stream_through_datasets(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the extra bp-data[hf] is not installed")
    monkeypatch.chdir(tmp_path)  # a folder named like the id stands for the repository
    (tmp_path / "demo" / "pairs").mkdir(parents=True)
    write(tmp_path / "demo" / "pairs" / "train.jsonl", JSONL)
    write(tmp_path / "demo" / "pairs" / "test.jsonl", JSONL[: JSONL.index("\n") + 1])
    items = read("hf:demo/pairs")
    assert answers(items) == [row["completion"] for row in ROWS]
    assert items[2].id == "hf:demo/pairs:3"
    assert len(read("hf:demo/pairs:test")) == 1
    with pytest.raises(bp_data.BpError) as caught:
        read("hf:demo/pairs:validation")
    assert caught.value.code == "HUB_DATASET_FAILED"
    assert caught.value.exit_code == 69


def test_every_code_raised_is_documented():
    import re
    from pathlib import Path

    root = Path(bp_data.__file__).parent
    text = "".join(
        path.read_text("utf-8")
        for path in root.rglob("*.py")
        if path.name != "errors.py" and path.parent.name != "common"
    )
    used = set(re.findall(r'"((?:INPUT|DEP|HUB|CONFIG|RUNTIME|STATE)_[A-Z_]+)"', text))
    assert used <= set(bp_data.CODES)
    assert [reason for reason in bp_data.REASONS if f'"{reason}"' not in text] == []
