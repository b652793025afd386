"""Cleaning: what goes, why, and the same bytes every time."""

import json
import os
import subprocess
import sys

import pytest
from bp_data.clean import CleanSettings, clean
from bp_data.common import BpError
from bp_data.example import Example, Rejected, Turn
from bp_data.report.report import report

LONG = " ".join(f"word{i}" for i in range(60))


def chat(i, question, answer="fine", **fields):
    return Example(f"r{i}", "mem", i, "chat", (Turn("user", question), Turn("assistant", answer)), **fields)


def reasons(result):
    return [(row.id, row.reason, row.detail) for row in result.dropped]


def test_exact_and_near():
    rows = [chat(0, LONG), chat(1, LONG.upper()), chat(2, LONG + " more"), chat(3, "something else")]
    assert reasons(clean(rows)) == [("r1", "duplicate_exact", "r0")]
    near = clean(rows, dedupe="near")
    assert [row.id for row in near.kept] == ["r0", "r3"]
    assert reasons(near) == [("r1", "duplicate_exact", "r0"), ("r2", "duplicate_near", "r0")]
    assert [row.id for row in clean(rows, dedupe="near", keep="longest").kept] == ["r2", "r3"]
    assert len(clean(rows, dedupe="none").kept) == 4


def test_two_questions_about_one_document_are_no_duplicates(tmp_path):
    path = tmp_path / "rag.jsonl"
    asked = [
        ("Who wrote the first word of it, and when was that?", "word0 did so."),
        ("How many words are there in all?", "Sixty, as they say."),
    ]
    rows = [{"question": q, "contexts": [LONG * 3], "answer": a} for q, a in [*asked, asked[0]]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(row.line, row.reason) for row in clean(path, dedupe="near").dropped] == [(3, "duplicate_exact")]
    found = report(path)
    assert (found.exact_duplicates, found.near_duplicate_rows) == (1, 0)
    assert found.tokens["max"] > 300, "the contexts are read in training, so they count as tokens"
    held = tmp_path / "held.jsonl"
    held.write_text(
        json.dumps({"question": asked[1][0], "contexts": ["another text"], "answer": asked[1][1]}) + "\n"
    )
    assert report(path, against=held).contamination["rows"] == 1
    assert {row.line for row in clean(path, dedupe="none", against=held).kept} == {1, 3}


def test_keep_best_prefers_clean_text():
    rows = [chat(0, LONG + " lost \ufffd"), chat(1, LONG)]
    assert [row.id for row in clean(rows, dedupe="near", keep="best").kept] == ["r1"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"min_tokens": 50}, "filter_tokens"),
        ({"min_turns": 3}, "filter_turns"),
        ({"language": ("de",), "drop_undetermined": True}, "filter_language"),
        ({"match": "absent"}, "filter_match"),
        ({"drop_match": "question"}, "filter_match"),
        ({"max_repetition": 0.3}, "filter_repetition"),
        ({"min_reasoning": 5}, "filter_reasoning"),
        ({"drop_finding": ("null_literal",)}, "filter_finding"),
    ],
)
def test_filters(settings, reason):
    row = chat(1, "a question a question a question a question", "N/A")
    result = clean([row], **settings)
    assert [d.reason for d in result.dropped] == [reason]
    assert result.to_dict()["dropped"] == {reason: 1}


def test_rows_with_findings_go_and_the_finding_is_told():
    rows = [
        chat(1, "what is it", "fine"),
        chat(2, "what is it now", "<think>open"),
        chat(3, "and then", "As an AI, I cannot"),
    ]
    assert reasons(clean(rows, drop_finding=("error",))) == [
        ("r2", "filter_finding", "think_unbalanced at turns[1].content")
    ]
    assert [row.id for row in clean(rows, drop_finding=("error", "refusal")).kept] == ["r1"]
    with pytest.raises(BpError, match="refusals") as error:
        clean(rows, drop_finding=("refusals",))
    assert error.value.hint == "use --drop-finding refusal"
    with pytest.raises(BpError, match="klingon"):
        clean(rows, language=("klingon",))


def test_redaction_and_rejections():
    rows = [
        chat(1, "mail ann@corp.io", meta={"from": "ann@corp.io"}),
        chat(2, "none"),
        Rejected("mem", 3, "invalid_json"),
    ]
    result = clean(rows, redact=True)
    assert result.kept[0].turns[0].content == "mail [EMAIL]"
    assert result.kept[0].meta == {"from": "[EMAIL]"}
    assert result.redacted == 1
    assert [d.reason for d in result.dropped] == ["invalid_json"]
    assert result.to_dict()["rows_total"] == 3


def test_decontamination(tmp_path):
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"prompt": LONG, "completion": "never seen"}) + "\n")
    result = clean([chat(1, "before " + LONG + " after", "x"), chat(2, "free")], against=str(held))
    assert [row.id for row in result.kept] == ["r2"]
    assert result.dropped[0].reason == "contaminated"


def test_same_bytes_and_nothing_overwritten(tmp_path):
    rows = [chat(0, LONG), chat(1, LONG), chat(2, "other")]
    first = clean(rows).write(tmp_path / "a.jsonl")
    second = clean(rows).write(tmp_path / "b.jsonl")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert len(first[0].read_text().splitlines()) == 2
    assert json.loads(first[1].read_text())["reason"] == "duplicate_exact"
    before = first[0].read_bytes()
    with pytest.raises(BpError) as error:
        clean(rows[:1]).write(tmp_path / "a.jsonl")
    assert error.value.code == "INPUT_OUTPUT_EXISTS"
    assert first[0].read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.dropped.jsonl",
        "a.jsonl",
        "b.dropped.jsonl",
        "b.jsonl",
    ]


def test_the_same_bytes_in_another_process_with_another_hash_seed(tmp_path):
    rows = [{"prompt": f"{LONG} {i % 7}", "completion": LONG + " more" * (i % 3)} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.jsonl"
        command = [sys.executable, "-m", "bp_data", "clean", "a.jsonl", "--dedupe", "near", "-o", output]
        subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        )
        found.append((output.read_bytes(), (tmp_path / f"{seed}.dropped.jsonl").read_bytes()))
    assert found[0] == found[1]
    assert 0 < len(found[0][0].splitlines()) < 40


def test_bad_pattern():
    with pytest.raises(BpError) as error:
        clean([], CleanSettings(match="("))
    assert error.value.code == "INPUT_PATTERN_INVALID"
