"""The command: flags, JSON, exit codes, and files that appear whole or not at all."""

import json

import pytest
from bp_data.cli import cli
from bp_data.common import run_command

GOOD = [{"prompt": f"question {i}?", "completion": f"answer {i}"} for i in range(6)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    bad = [
        *GOOD[:3],
        {"prompt": "", "completion": "x"},
        {"prompt": "a", "completion": None},
        {"prompt": "a", "completion": ""},
    ]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bad) + "{nope\n")
    (tmp_path / "qa.csv").write_text("frage,antwort\nWas?,Das.\nWer?,Der.\n")
    return tmp_path


def run(capsys, *argv):
    code = run_command(cli, list(argv), prog_name="bp-data")
    out, err = capsys.readouterr()
    return code, out, err


def test_validate(data, capsys):
    code, out, _ = run(capsys, "validate", "good.jsonl")
    assert (code, "ok" in out) == (0, True)
    code, out, _ = run(capsys, "validate", "bad.jsonl", "--json")
    found = json.loads(out)
    assert code == 65
    assert (found["schema_version"], found["dataset"], found["format_detected"]) == (
        1,
        "bad.jsonl",
        "prompt_completion",
    )
    assert found["total_samples"] == 7
    assert {(e["code"], e["line"]) for e in found["errors"]} >= {
        ("empty_field", 4),
        ("empty_target", 6),
        ("invalid_json", 7),
    }
    code, out, _ = run(capsys, "validate", "bad.jsonl", "--max-errors", "1", "--json")
    assert json.loads(out)["stopped_early"]
    code, out, _ = run(capsys, "validate", "bad.jsonl", "--max-samples", "3", "-q")
    assert (code, out) == (0, "ok\n")


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["validate", "nowhere.jsonl"], "INPUT_DATASET_NOT_FOUND"),
        (["validate", "good.jsonl", "--format", "shargpt"], "INPUT_FORMAT_UNKNOWN"),
        (["validate", "qa.csv"], "INPUT_FORMAT_UNCLEAR"),
        (["map", "qa.csv", "--auto"], "INPUT_FORMAT_UNCLEAR"),
        (["map", "qa.csv", "--map", "frage"], "INPUT_MAPPING_INVALID"),
        (["map", "qa.csv", "--mapper", "nobody"], "INPUT_MAPPER_UNKNOWN"),
        (["map", "qa.csv", "--auto", "--map", "frage=prompt"], "INPUT_VALIDATION_FAILED"),
        (["map", "good.jsonl", "-o", "good.jsonl", "--overwrite"], "INPUT_OUTPUT_EXISTS"),
        (["map", "good.jsonl", "-o", "qa.csv"], "INPUT_OUTPUT_EXISTS"),
        (["validate", "good.jsonl", "--max-errors", "-1"], "INPUT_VALIDATION_FAILED"),
    ],
)
def test_user_errors_exit_1_with_a_code_and_a_hint(data, capsys, argv, code):
    exit_code, out, err = run(capsys, *argv)
    assert exit_code == 1
    assert f"[{code}]" in err
    assert "hint: " in err
    assert "Traceback" not in err
    _, out, _ = run(capsys, *argv, "--json")
    assert json.loads(out)["error"]["code"] == code


def test_map_shows_then_writes(data, capsys):
    code, out, _ = run(capsys, "map", "qa.csv", "--map", "frage=prompt,antwort=completion", "--json")
    found = json.loads(out)
    assert (code, found["rows_accepted"], found["output"]) == (0, 2, "")
    assert found["samples"][0]["messages"][0] == {"role": "user", "content": "Was?"}
    argv = [
        "map",
        "qa.csv",
        "--map-json",
        '{"frage": "prompt", "antwort": "completion"}',
        "-o",
        "out.jsonl",
        "-q",
    ]
    assert run(capsys, *argv)[:2] == (0, "out.jsonl\n")
    first = (data / "out.jsonl").read_bytes()
    assert len(first.splitlines()) == 2
    assert run(capsys, *argv)[0] == 1
    assert run(capsys, *argv, "--overwrite")[0] == 0
    assert (data / "out.jsonl").read_bytes() == first


def test_map_writes_nothing_until_each_reason_is_dropped(data, capsys):
    code, _, err = run(capsys, "map", "bad.jsonl", "-o", "out.jsonl")
    assert code == 65
    assert not (data / "out.jsonl").exists()
    assert "--drop empty_field" in err
    flags = [
        "--drop",
        "empty_field",
        "--drop",
        "empty_target",
        "--drop",
        "invalid_json",
        "--drop",
        "missing_field",
    ]
    code, out, _ = run(
        capsys,
        "map",
        "bad.jsonl",
        "-o",
        "out.jsonl",
        "--shape",
        "prompt_completion",
        "--drop",
        "all",
        "--json",
    )
    found = json.loads(out)
    assert code == 0
    assert found["rows_total"] == found["rows_accepted"] + found["rows_rejected"] == 7
    assert sum(found["dropped"].values()) == found["rows_rejected"] == 7 - found["rows_accepted"]
    assert found["rejections"]["empty_target"]["lines"] == [6]
    assert set(found["dropped"]) <= set(flags) | {"truncated_last_line"}
    assert [p.name for p in data.iterdir() if p.name.endswith(".partial")] == []


def test_help_lists_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert {"validate", "map", "split", "report", "clean"} <= set(out.split())


def test_report_and_its_gates(data, capsys):
    rows = [
        {"question": f"What is {i} times {i * 7 + 3} exactly?", "answer": f"It is {i * (i * 7 + 3)}."}
        for i in range(30)
    ]
    (data / "qa.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, rows[0], rows[1]]) + "{broken\n"
    )
    (data / "test.jsonl").write_text(json.dumps(rows[5]) + "\n")
    code, out, _ = run(capsys, "report", "qa.jsonl", "--against", "test.jsonl", "--json", "--html", "r.html")
    found = json.loads(out)
    assert code == 0
    assert {
        "schema_version", "rows_total", "rows_accepted", "rows_rejected", "rejections", "formats", "exact_duplicates",
        "near_duplicate_rows", "near_duplicate_clusters", "contamination", "tokens", "verdict", "failed_thresholds",
        "seconds",
    } <= found.keys()  # fmt: skip
    assert {"rows", "rate", "against"} <= found["contamination"].keys()
    assert {"count", "p50", "p95", "max", "estimated"} <= found["tokens"].keys()
    assert (found["rows_total"], found["rows_accepted"], found["exact_duplicates"]) == (33, 32, 2)
    assert found["contamination"]["rows"] >= 1
    assert (data / "r.html").read_text().startswith("<!doctype html>")
    code, _, err = run(capsys, "report", "qa.jsonl", "--fail-on-dups", "0.01")
    assert code == 65
    assert "INPUT_DATASET_REPORT_THRESHOLD" in err
    assert run(capsys, "report", "qa.jsonl", "--against", "test.jsonl", "--fail-on-contamination", "0", "-q")[
        :2
    ] == (65, "FAIL\n")
    assert run(capsys, "report", "qa.jsonl", "--fail-on-dups", "0.5")[0] == 0
    assert run(capsys, "report", "qa.jsonl", "--against", "nowhere.jsonl")[0] == 1
    assert run(capsys, "report", "qa.jsonl", "--dup-threshold", "2")[0] == 1


def test_clean_writes_kept_and_dropped_rows(data, capsys):
    (data / "dup.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*GOOD, GOOD[0]]) + "{broken\n")
    code, out, _ = run(capsys, "clean", "dup.jsonl", "--json")
    found = json.loads(out)
    assert (code, found["rows_kept"], found["dropped"]) == (0, 6, {"duplicate_exact": 1, "invalid_json": 1})
    assert len((data / "dup.clean.jsonl").read_text().splitlines()) == 6
    assert len((data / "dup.clean.dropped.jsonl").read_text().splitlines()) == 2
    assert run(capsys, "clean", "dup.jsonl")[0] == 1
    assert run(capsys, "clean", "dup.jsonl", "-o", "dup.jsonl", "--overwrite")[0] == 1
    assert run(capsys, "clean", "dup.jsonl", "--min-turns", "9", "--overwrite")[0] == 65


def test_split_writes_the_rows_of_the_source(data, capsys):
    rows = [{"question": f"{i} {'x' * i}?", "answer": f"{i * i}", "extra": i} for i in range(40)]
    (data / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    code, out, _ = run(capsys, "split", "qa.jsonl", "--heldout-ratio", "0.2", "--seed", "7", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["n_train"], found["n_heldout"], found["rows_rejected"]) == (32, 8, 1)
    assert (found["out_train"], found["exact_across"], found["near_across"]) == ("qa.train.jsonl", 0, 0)
    train = [json.loads(line) for line in (data / "qa.train.jsonl").read_text().splitlines()]
    heldout = [json.loads(line) for line in (data / "qa.heldout.jsonl").read_text().splitlines()]
    assert sorted(train + heldout, key=lambda row: row["extra"]) == rows
    first = (data / "qa.heldout.jsonl").read_bytes()
    assert run(capsys, "split", "qa.jsonl")[0] == 1
    run(capsys, "split", "qa.jsonl", "--heldout-ratio", "0.2", "--seed", "7", "--overwrite", "-q")
    assert (data / "qa.heldout.jsonl").read_bytes() == first
    assert run(capsys, "split", "qa.jsonl", "--heldout-ratio", "1.5")[0] == 1


def test_outputs_are_refused_before_the_work(data, capsys):
    target = data / "absent" / "x"
    source = "good.jsonl"
    for argv in (
        ["report", source, "--html", f"{target}.html"],
        ["clean", source, "--output", f"{target}.jsonl"],
        ["clean", source, "--dropped", f"{target}.jsonl"],
        ["split", source, "--out-train", f"{target}.jsonl"],
        ["map", source, "--auto", "--output", f"{target}.jsonl"],
    ):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (1, "")
        assert "[INPUT_OUTPUT_FOLDER]" in err
        assert f"hint: mkdir -p {target.parent}" in err
    assert not target.parent.exists()
    code, _, err = run(capsys, "report", source, "--html", source)
    assert (code, "[INPUT_OUTPUT_EXISTS]" in err) == (1, True), "the page never replaces the data"
