"""Odd JSON and CSV: read as what they are, or refused with the cause; nothing of them is lost in silence."""

import json

import bp_data
import pytest
from bp_data import Example, Limits, Rejected
from bp_data.cli import cli
from bp_data.common import run_command

ROWS = [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(20)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
PRETTY = "".join(json.dumps(row, indent=2) + "\n" for row in ROWS)
ANSWERS = [row["completion"] for row in ROWS]
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}
CHATS = [
    {"messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": f"answer {i}"}]}
    for i in range(20)
]
CSV = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)


def read(path, data, **kwargs):
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    reader = bp_data.read(path, **kwargs)
    return list(reader), reader.notes


def fates(items):
    return [getattr(item, "reason", "ok") for item in items]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("array.jsonl", json.dumps(ROWS), "not as JSON lines"),
        ("pretty.jsonl", json.dumps(ROWS, indent=1), "not as JSON lines"),
        ("objects.jsonl", PRETTY, "over several lines"),
        ("objects.json", PRETTY, ""),
        ("chats.jsonl", "".join(json.dumps(row, indent=2) + "\n" for row in CHATS), "over several lines"),
        ("arrays.json", json.dumps(ROWS[:12]) + json.dumps(ROWS[12:]), "files joined?"),
        ("tight.json", "".join(json.dumps(row) for row in ROWS), ""),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode(), ""),
        ("columns.json", json.dumps(COLUMNS), "read from the columns prompt, completion"),
        ("pandas.json", json.dumps({k: {str(i): x for i, x in enumerate(v)} for k, v in COLUMNS.items()}), "columns"),
        ("pandas.jsonl", json.dumps(COLUMNS, indent=1), ""),
        ("cr.jsonl", JSONL.replace("\n", "\r"), "carriage return"),
        ("cr.csv", CSV.replace("\n", "\r"), "carriage return"),
        ("joined.jsonl", JSONL[: JSONL.index("\n") + 1] + "\ufeff" + JSONL[JSONL.index("\n") + 1 :], "before line 2"),
        ("joined.csv", "\ufeff" + CSV[:-1].replace("question 7", "question 7") + "\n\ufeffprompt,completion\n", "header"),
        ("excel.csv", "sep=;\r\n" + CSV.replace(",", ";"), ""),
        ("excel2.csv", '\ufeff"sep=|"\r\n' + CSV.replace(",", "|"), ""),
        ("index.csv", "," + CSV.replace("\n", "\n0,")[:-2], "Unnamed: 0"),
        ("comments.jsonl", "\n\n" + JSONL, ""),
    ],
)  # fmt: skip
def test_read_as_what_it_is(tmp_path, name, data, told):
    items, notes = read(tmp_path / name, data)
    assert [item for item in items if isinstance(item, Rejected)] == []
    assert [item.turns[-1].content for item in items] == ANSWERS
    assert told in " ".join(notes)
    assert len({item.id for item in items}) == 20


def test_one_broken_line_leaves_json_lines_what_they_are(tmp_path):
    items, _ = read(tmp_path / "a.jsonl", '{"prompt": "a",\n' + JSONL)
    assert fates(items) == ["invalid_json"] + ["ok"] * 20
    items, _ = read(tmp_path / "b.jsonl", '["a"]\n' + JSONL)
    assert fates(items) == ["not_an_object"] + ["ok"] * 20


def test_what_follows_a_json_value_is_never_lost(tmp_path):
    first = json.dumps(ROWS[:2])
    assert fates(read(tmp_path / "a.json", first + " and more")[0]) == ["ok", "ok", "trailing_data"]
    assert fates(read(tmp_path / "b.json", first + first[:-9])[0]) == [
        "ok",
        "ok",
        "ok",
        "truncated_last_line",
    ]
    items, _ = read(tmp_path / "c.json", json.dumps({"data": ROWS[:2]}) + json.dumps(ROWS[2]))
    assert fates(items) == ["ok"] * 3


def test_a_row_of_lists_is_not_taken_for_columns(tmp_path):
    row = {"tokens": ["Anna", "sings"], "ner_tags": ["B-PER", "O"]}
    (item,), _ = read(tmp_path / "a.json", json.dumps(row))
    assert isinstance(item, Example)
    uneven, _ = read(
        tmp_path / "b.json",
        json.dumps({"prompt": ["a", "b"], "completion": ["c"]}),
        format="prompt_completion",
    )
    assert [type(item) for item in uneven] == [Rejected]


def test_a_json_array_names_rows_and_the_lines_that_they_start_on(tmp_path, capsys):
    rows = [json.dumps(row, indent=1) for row in ROWS]
    rows[11] = '{"prompt": \n"x" "y"}'
    rows[15] = json.dumps({"prompt": "", "completion": "b"}, indent=1)
    text = "[\n" + ",\n".join(rows) + "\n]"
    items, _ = read(tmp_path / "a.json", text)
    bad = [item for item in items if isinstance(item, Rejected)]
    assert [item.line for item in bad] == [12, 16]
    line = text[: text.index('{"prompt": \n"x"')].count("\n") + 1
    assert bad[0].hint.startswith(f"line {line}: ")
    run_command(cli, ["validate", str(tmp_path / "a.json")], prog_name="bp-data")
    out = capsys.readouterr().out
    assert "row 12" in out
    assert "row 16" in out
    assert ", line 12" not in out
    run_command(cli, ["map", str(tmp_path / "a.json"), "--auto"], prog_name="bp-data")
    assert "rows 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    "levels", [150, 199, 201, 253, 255, 990, 999, 1000, 1010, 1020, 1023, 1024, 1030, 50_000]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_deep_nesting_is_one_refused_row(tmp_path, levels, name):
    deep = (
        '{"prompt": "a", "completion": "b", "n": 12345678901234567890123, "x": '
        + "[" * levels
        + "]" * levels
        + "}"
    )
    first, last = json.dumps(ROWS[0]), json.dumps(ROWS[1])
    data = "\n".join([first, deep, last]) if name == "a.jsonl" else f"[{first},{deep},{last}]"
    items, _ = read(tmp_path / name, data)
    assert fates(items) == [
        "ok",
        "ok" if levels < 199 else "nesting_too_deep" if levels > 199 else fates(items)[1],
        "ok",
    ]
    result = bp_data.clean(tmp_path / name)
    result.write(tmp_path / "out.jsonl")
    again, _ = list(bp_data.read(tmp_path / "out.jsonl")), None
    assert len(again) == len(result.kept)
    bp_data.validate(tmp_path / name)
    bp_data.report(tmp_path / name)


def test_deep_nesting_inside_a_text_is_one_refused_row_too(tmp_path):
    for levels in (240, 900, 1010, 1100):
        arguments = '{"a": ' + "[" * levels + "]" * levels + "}"
        call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        row = {"messages": [{"role": "user", "content": "a"}, call]}
        items, _ = read(tmp_path / "a.jsonl", json.dumps(row) + "\n" + JSONL)
        assert len(items) == 21
        bp_data.validate(tmp_path / "a.jsonl")
        bp_data.report(tmp_path / "a.jsonl")


def test_numbers_of_any_size_and_what_json_does_not_have(tmp_path):
    rows = [
        '{"prompt": "a", "completion": "b", "n": %s}' % ("9" * 400),
        '{"prompt": "a", "completion": "b", "n": %s}' % ("9" * 5000),
        '{"prompt": "a", "completion": "b", "n": -Infinity}',
        '{"prompt": "a", "completion": "b", "n": NaN}',
        '{"prompt": "a", "completion": "\\udc00 b"}',
        '{"prompt": "a", "completion": "b", "n": 1}',
    ]
    items, _ = read(tmp_path / "a.jsonl", "\n".join(rows))
    assert fates(items)[2:] == ["not_finite", "not_finite", "lone_surrogate", "ok"]
    assert set(fates(items)[:2]) <= {"ok", "not_finite"}


@pytest.mark.parametrize("data", ["", "\n \n\n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_files_without_a_row_are_empty(tmp_path, name, data):
    with pytest.raises(bp_data.BpError) as caught:
        read(tmp_path / name, data)
    assert caught.value.code == "INPUT_DATASET_EMPTY"


def test_csv_of_many_faults(tmp_path):
    data = '\ufeffprompt,completion\r\n"a\nb","say ""x"""\r\nx\ry,z\r\n,\r\n"q",\r\nlong,er,row\r\nlast,row'
    items, _ = read(tmp_path / "a.csv", data)
    assert items[0].turns[0].content == "a\nb"
    assert items[-1].turns[-1].content == "row"
    assert len(items) >= 6


def test_every_reading_command_takes_the_same_options(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"test": ROWS[:2], "train": ROWS}))
    (tmp_path / "a.txt").write_text("".join(f"Line {i} of the text, {'word ' * i}.\n" for i in range(9)))
    for command in ("validate", "report", "clean", "split", "map"):
        extra = ["--auto"] if command == "map" else ["--dry-run"] if command in ("clean", "split") else []
        for argv, rows in (
            (["a.json", "--data-field", "train"], 20),
            (["a.json", "--data-field", "train", "--max-row-bytes", "1024"], 20),
            (["a.txt", "--text-by", "line"], 9),
        ):
            code = run_command(cli, [command, *argv, "--json", *extra], prog_name="bp-data")
            found = json.loads(capsys.readouterr().out)
            total = found.get(
                "rows_total", found.get("total_samples", found.get("n_train", 0) + found.get("n_heldout", 0))
            )
            assert (code, total) == (0, rows), (command, argv)
        code = run_command(cli, [command, "a.txt", "--text-by", "verse"], prog_name="bp-data")
        assert code == 1
        capsys.readouterr()
    assert Limits().text_by == "auto"
