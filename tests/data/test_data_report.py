"""The report against planted truths: every figure is known beforehand."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bp_data.clean import clean
from bp_data.common import BpError
from bp_data.example import Example, Rejected, Turn
from bp_data.report import collect
from bp_data.report.report import report
from bp_data.report.settings import ReportSettings
from bp_data.split import split
from hypothesis import given, settings
from hypothesis import strategies as st

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "rt", "sk", "mp")]
CARD = "4111 1111 1111 1111"


def prose(seed, words=80):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def chat(i, question, answer):
    return Example(f"r{i}", "mem", i, "chat", (Turn("user", question), Turn("assistant", answer)))


def planted():
    """100 rows of their own, 3 exact copies, 2 near ones, 2 rejected."""
    rows = [chat(i, prose(i), prose(1000 + i)) for i in range(100)]
    rows += [chat(100 + i, prose(i).upper() + "  ", prose(1000 + i)) for i in range(3)]
    for i in (10, 11):
        words = prose(i).split()
        words[40] = "changed"
        rows.append(chat(103 + i, " ".join(words), prose(1000 + i)))
    return [*rows, Rejected("mem", 900, "invalid_json"), Rejected("mem", 901, "empty_field")]


def test_planted_truths():
    found = report(planted())
    assert (found.rows_total, found.rows_accepted, found.rows_rejected) == (107, 105, 2)
    assert found.rejections == {"empty_field": 1, "invalid_json": 1}
    assert found.exact_duplicates == 3
    assert (found.near_duplicate_rows, found.near_duplicate_clusters) == (2, 2)
    assert [c["keep"] for c in found.near_duplicates["clusters"]] == ["mem:10", "mem:11"]
    assert found.near_duplicates["shingle"].startswith("word trigrams")
    assert found.verdict == "WARN", "2.9 % exact duplicates"
    assert found.turns["roles"] == {"assistant": 105, "user": 105}


def test_a_planted_file_is_told_line_by_line(tmp_path):
    """Everything that goes wrong in one file: the report, and what clean and split make of it, agree."""
    rows = [json.dumps({"prompt": prose(i), "completion": prose(1000 + i)}) for i in range(60)]
    words = prose(7).split()
    words[3] = "changed"
    rows[20] = rows[4]
    rows[30] = json.dumps({"prompt": " ".join(words), "completion": prose(1007)})
    rows[12], rows[25], rows[41] = "{broken", json.dumps({"prompt": prose(25), "completion": ""}), "[1]"
    path, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    path.write_text("\n".join(rows) + '\n{"prompt": "cut o')
    held.write_text(json.dumps({"question": prose(50), "answer": prose(1050)}) + "\n")
    found = report(path, against=held)
    assert (found.rows_total, found.rows_accepted) == (61, 57)
    assert {reason: told["rows"] for reason, told in found.rejected.items()} == {
        "empty_target": ["train.jsonl:26"],
        "invalid_json": ["train.jsonl:13"],
        "not_an_object": ["train.jsonl:42"],
        "truncated_last_line": ["train.jsonl:61"],
    }
    assert found.exact_duplicates == 1
    assert [(c["keep"], c["drop"]) for c in found.near_duplicates["clusters"]] == [
        ("train.jsonl:8", ["train.jsonl:31"])
    ]
    assert [(e["row"], e["item"], e["why"]) for e in found.contamination["examples"]] == [
        ("train.jsonl:51", "held.jsonl:1", "equal")
    ]
    cleaned = clean(path, dedupe="near", against=held)
    assert [(row.line, row.reason) for row in cleaned.dropped] == [
        (13, "invalid_json"), (21, "duplicate_exact"), (26, "empty_target"), (31, "duplicate_near"),
        (42, "not_an_object"), (51, "contaminated"), (61, "truncated_last_line"),
    ]  # fmt: skip
    side = {row.line: name for name in ("train", "heldout") for row in getattr(split(path, ratio=0.5), name)}
    assert side[5] == side[21]
    assert side[8] == side[31]


def test_json_has_the_promised_keys():
    data = json.loads(json.dumps(report(planted()).to_dict()))
    assert {
        "schema_version", "rows_total", "rows_accepted", "rows_rejected", "rejections", "formats", "exact_duplicates",
        "near_duplicate_rows", "near_duplicate_clusters", "contamination", "tokens", "verdict", "failed_thresholds",
        "seconds",
    } <= set(data)  # fmt: skip
    assert {"rows", "rate", "against"} <= set(data["contamination"])
    assert {"count", "p50", "p95", "max", "estimated"} <= set(data["tokens"])


def test_formats_of_a_mixed_file_and_its_rare_rows(tmp_path):
    path = tmp_path / "mixed.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": prose(i)}, {"role": "assistant", "content": prose(-i)}]}
        for i in range(1, 151)
    ]
    rows.insert(70, {"instruction": prose(2000), "input": "", "output": prose(2001)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = report(path)
    assert found.formats == {"openai": 150, "alpaca": 1}
    assert found.kinds == {"chat": 151}
    assert (found.outliers["format"], found.outliers["where"]["format"]) == (1, ["mixed.jsonl:71"])
    assert report(path, max_outlier_rate=0.0).failed_thresholds


@pytest.fixture
def held(tmp_path):
    path = tmp_path / "held.jsonl"
    rows = [{"prompt": prose(i), "completion": prose(1000 + i)} for i in (0, 1, 500)]
    rows.append({"prompt": prose(2), "completion": "another answer altogether"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_contamination(held):
    rows = [chat(i, prose(i), prose(1000 + i)) for i in range(50)]
    found = report(rows, against=str(held)).contamination
    assert found["rows"] == 3, "two whole rows, and one question with another answer"
    assert found["exact"] == 2
    assert found["ngram_13_coverage"] == 3
    assert found["against"][0]["items_compromised"] == 3
    assert found["rate"] == pytest.approx(0.06)
    assert report(rows[3:], against=str(held)).contamination["rows"] == 0


def test_contamination_inside_a_long_document(held):
    row = Example("d", "mem", 1, "text", text=prose(77, 900) + " " + prose(500) + " " + prose(78, 900))
    assert report([row], against=str(held)).contamination["rows"] == 1


def test_duplicates_of_a_held_out_item_count_as_duplicates_too(held):
    rows = [chat(i, prose(0), prose(1000) + "!" * i) for i in range(3)]
    found = report(rows, against=str(held))
    assert found.contamination["rows"] == 3
    assert found.exact_duplicates + found.near_duplicate_rows == 2


def test_gates_and_strict():
    rows = planted()
    assert report(rows, fail_on_dups=0.1).verdict == "WARN"
    tripped = report(rows, fail_on_dups=0.01)
    assert tripped.verdict == "FAIL"
    assert tripped.failed_thresholds[0].startswith("fail_on_dups: 0.0476 > 0.01")
    assert report(rows, strict=True).verdict == "FAIL"
    passed = report([chat(i, prose(i), prose(1000 + i)) for i in range(30)], ReportSettings(strict=True))
    assert passed.verdict == "PASS"
    outlier = [*(chat(i, prose(i), prose(1000 + i)) for i in range(30)), chat(31, "hi", "yo")]
    assert report(outlier, max_outlier_rate=0.0).failed_thresholds
    assert report([Rejected("m", 1, "invalid_json")]).verdict == "FAIL"
    with pytest.raises(BpError, match="fail_on_dups"):
        report(rows, fail_on_dups=2.0)


def test_secrets_are_counted_and_never_shown():
    key = "AKIA" + "QWERTYUIOPASDF2J"
    rows = [chat(1, f"my key is {key}", f"card {CARD}, mail ann@corp.io")]
    rows += [
        chat(i, f"my key is {key}", f"card {CARD}, mail ann@corp.io " + "again " * (i % 2)) for i in (2, 3)
    ]
    found = report(rows)
    assert found.pii["secrets"] == {"aws_key": 3}
    assert found.pii["personal"] == {"card": 3, "email": 3}
    for text in (found.to_text(), found.to_html(), json.dumps(found.to_dict())):
        assert key not in text
        assert CARD not in text
        assert "ann@corp.io" not in text


def test_page_is_self_contained_and_escaped():
    evil = "<script>alert(1)</script> \u202e </script> " + prose(3)
    rows = [chat(i, evil + " x" * i, "<img src=http://e.vil onerror=alert(1)>") for i in range(3)]
    page = report(rows).to_html()
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert not re.search(r"<(?:link|script|img|iframe)[^>]+(?:src|href)=", page)
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert data
    assert json.loads(data.group(1))["rows_total"] == 3
    assert len(page) < 300_000


def test_report_of_nothing():
    assert report([]).to_text()
    assert report([]).to_html()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(), max_size=60) | st.sampled_from(["[[[", "a b c", "", "\ud800", "7 7 7 7"]),
        max_size=12,
    )
)
def test_any_texts_can_be_reported_and_cleaned(texts):
    rows = [Example(f"r{i}", "mem", i, "text", text=text) for i, text in enumerate(texts)]
    found = report(rows)
    assert found.rows_accepted == len(rows)
    assert found.to_text()
    assert found.to_html()
    cleaned = clean(rows, dedupe="near", redact=True)
    assert len(cleaned.kept) + len(cleaned.dropped) == len(rows)


def test_a_dataset_without_a_word():
    code = (
        "from bp_data import Example, report;"
        "print(report([Example('r', 'mem', 1, 'text', text='[[ ]]')]).rows_accepted)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n", "in a fresh process, where no table has grown yet"


def test_reasoning_and_languages():
    rows = [chat(i, prose(i), f"<think>{prose(i, 20)}</think> done {i}") for i in range(5)]
    rows.append(
        chat(9, "Der Hund und die Katze sind nicht mit dem Auto auf das Land gefahren", "<think>open")
    )
    found = report(rows)
    assert found.reasoning["with_trace"] == 6
    assert found.reasoning["unbalanced"] == 1
    assert found.reasoning["words_p50"] == 20
    assert found.languages["de"] == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_long_rows_are_worked_off_by_size_and_not_by_number(tmp_path):
    path, size = tmp_path / "long.jsonl", 1_000_000
    row = json.dumps({"prompt": "why", "completion": prose(1, 160_000)[:size]})
    path.write_text(f"{row}\n" * 60)
    code = (
        "import re, sys; from bp_data import report; from bp_data.report import collect\n"
        "work, held = collect.Pass._work_off, []\n"
        "def spy(self):\n    held.append(sum(map(len, self.texts))); work(self)\n"
        "collect.Pass._work_off = spy; found = report(sys.argv[1])\n"
        # of this process alone: getrusage also counts what its parent held when it was forked
        "peak = int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024\n"
        "print(found.rows_accepted, max(held), peak)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    rows, held, peak = map(int, done.stdout.split())
    assert rows == 60
    assert held <= collect._BATCH_CHARS + len(row)
    assert peak < 280e6  # measured: 200 MB, and 330 MB with all rows in one batch


@pytest.mark.parametrize("every", [2, 3, 7])
def test_languages_of_many_rows_are_those_of_an_even_sample(every):
    german = "Der Hund und die Katze sind nicht mit dem Auto auf das Land gefahren, sagte er."
    english = "The dog and the cat did not go to the country by car, he said to all of them."
    rows = [chat(i, german if i % every == 0 else english, f"{i}") for i in range(2500)]
    found = report(rows)
    assert found.languages_of == sum(found.languages.values()) == 2000
    assert found.languages["de"] == pytest.approx(2000 / every, rel=0.03)  # drawn at random: 0.05
    assert "(of 2,000 rows drawn evenly)" in found.to_text()
    assert "of 2,000 rows drawn evenly" in found.to_html()
    assert found.languages == report(rows).languages
    few = report(rows[:50])
    assert few.languages_of == 50
    assert "drawn evenly" not in few.to_text()


@pytest.mark.skipif(not GSM8K.exists(), reason="the GSM8K files are not beside the checkout")
def test_gsm8k_train_against_test():
    found = report(GSM8K / "train.jsonl", against=(str(GSM8K / "test.jsonl"),))
    assert (found.rows_accepted, found.exact_duplicates, found.near_duplicate_rows) == (7473, 0, 0)
    c = found.contamination
    assert (c["rows"], c["review_13_any"], c["against"][0]["items"]) == (2, 8, 1319)
    assert not found.pii["secrets"]
    assert not found.pii["personal"]
