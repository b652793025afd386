"""Contamination against an oracle of Python sets, and the cases that a sliding window gets wrong."""

import json
import random
import re
import unicodedata

import pytest
from bp_data.example import Example, Turn
from bp_data.report.report import report
from bp_data.similarity.contamination import COVERAGE, ContaminationIndex
from bp_data.similarity.shingles import tokenize
from bp_data.similarity.texts import answer_text, prompt_text, row_text

WORDS = [a + b for a in "bdfgklmnprstvz" for b in ("a", "en", "ir", "ost", "u")]


def prose(seed, words):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words))


def chat(i, question, answer):
    return Example(f"r{i}", "mem", i, "chat", (Turn("user", question), Turn("assistant", answer)))


def write(path, pairs):
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    return str(path)


def overlap(path, rows):
    index = ContaminationIndex([path])
    for tokens in tokenize([row_text(row) for row in rows], range(len(rows))):
        index.scan(tokens)
    return index, index.finish()


def grams(text, n):
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}, len(words)


def oracle(items, rows):
    """row -> best coverage of any field, as the module docstring defines it; rows that share an 8-gram."""
    best, short = {}, set()
    for number, row in enumerate(rows):
        eights = grams(row_text(row), 8)[0]
        for item in items:
            for text in (prompt_text(item), answer_text(item)):
                words = grams(text, 1)[1]
                n = 13 if words >= 13 else 8
                if words < 8:
                    continue
                own = grams(text, n)[0]
                if eights & grams(text, 8)[0]:
                    short.add(number)
                share = len(own & grams(row_text(row), n)[0]) / len(own)
                if share and (n == 13 or share >= COVERAGE):
                    best[number] = max(best.get(number, 0), share)
    return best, short


@pytest.mark.parametrize("seed", range(6))
def test_coverage_is_that_of_the_definition(tmp_path, seed):
    """Rows are cut and joined from items at random, so that every coverage from none to whole occurs."""
    rng = random.Random(seed)
    pairs = [
        (prose(rng.random(), rng.randint(5, 40)), prose(rng.random(), rng.randint(1, 60))) for _ in range(30)
    ]
    rows = []
    for i in range(80):
        words = " ".join(rng.choice(pairs)).split()
        low = rng.randrange(len(words))
        stolen = words[low : low + rng.randint(1, 60)]
        before, after = prose(rng.random(), rng.randint(0, 30)), prose(rng.random(), rng.randint(0, 30))
        rows.append(chat(i, f"{before} {', '.join(stolen).upper()} {after}", "so be it"))
    index, found = overlap(write(tmp_path / "held.jsonl", pairs), rows)
    best, short = oracle(index.items, rows)
    told = {row: share for row, (_, share) in (found.contaminated | found.review).items()}
    assert told.keys() == best.keys()
    assert all(told[row] == pytest.approx(best[row]) for row in best)
    assert found.contaminated.keys() == {row for row, share in best.items() if share >= COVERAGE}
    assert found.rows_short == len(short)
    assert len(found.contaminated) > 5


def test_a_question_alone_is_a_leak_and_so_is_an_answer_alone(tmp_path):
    held = write(tmp_path / "held.jsonl", [(prose(1, 20), prose(2, 40))])
    for i, stolen in enumerate((prose(1, 20), prose(2, 40))):
        found = report([chat(i, f"Once more: {stolen}", "that is all")], against=held).contamination
        assert (found["rows"], found["against"][0]["items_compromised"]) == (1, 1)


def test_a_shared_phrase_is_for_review_and_no_contamination(tmp_path):
    phrase = prose(3, 13)
    held = write(tmp_path / "held.jsonl", [(f"{prose(4, 40)} {phrase}", prose(5, 40))])
    found = report([chat(1, f"{phrase} {prose(6, 60)}", prose(7, 30))], against=held).contamination
    assert (found["rows"], found["review_13_any"], found["any_8"]) == (0, 1, 1)


def test_short_fields_are_counted_as_not_checkable_and_equal_rows_are_found_all_the_same(tmp_path):
    held = write(tmp_path / "held.jsonl", [("What is 2 + 2?", "It is 4.")])
    rows = [chat(1, "what is  2 + 2?", "IT IS 4."), chat(2, "What is 3 + 3?", "It is 6.")]
    found = report(rows, against=held).contamination
    assert (found["rows"], found["exact"], found["fields_too_short"]) == (1, 1, 2)


def test_numbers_are_words(tmp_path):
    """With digits folded to one, templated arithmetic would all be the same."""
    text = "Tom had {} apples and gave away {} of them to each of his {} friends, how many were left?"
    held = write(tmp_path / "held.jsonl", [(text.format(40, 3, 5), "25")])
    clean = report([chat(1, text.format(91, 8, 6), "43")], against=held).contamination
    assert clean["rows"] == 0
    assert report([chat(1, text.format(40, 3, 5), "25 apples")], against=held).contamination["rows"] == 1


def test_scripts_without_spaces(tmp_path):
    text = "小明有二十五個蘋果他把其中的七個給了他的朋友然後又買了十二個蘋果請問他現在有多少個蘋果"
    held = write(tmp_path / "held.jsonl", [(text, "三十")])
    assert report([chat(1, f"題目：{text}？", "三十個")], against=held).contamination["rows"] == 1
    assert (
        report([chat(1, "今天的天氣很好我們一起去公園散步吧" * 2, "好")], against=held).contamination["rows"]
        == 0
    )


def test_a_system_prompt_in_common_is_no_overlap(tmp_path):
    system = prose(8, 80)
    held = tmp_path / "held.jsonl"
    turns = [("system", system), ("user", prose(9, 30)), ("assistant", prose(10, 30))]
    held.write_text(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    row = Example(
        "r", "mem", 1, "chat", (Turn("system", system), *chat(1, prose(11, 30), prose(12, 30)).turns)
    )
    found = report([row], against=str(held)).contamination
    assert (found["rows"], found["any_8"]) == (0, 0)


def test_several_files_are_told_apart(tmp_path):
    held = tuple(
        write(tmp_path / f"{name}.jsonl", [(prose(s, 20), prose(s + 50, 20))]) for s, name in enumerate("abc")
    )
    rows = [chat(1, prose(1, 20), prose(51, 20)), chat(2, prose(2, 20), prose(99, 20))]
    found = report(rows, against=held).contamination
    assert [(f["file"], f["rows"], f["items_compromised"]) for f in found["against"]] == [
        ("a.jsonl", 0, 0),
        ("b.jsonl", 1, 1),
        ("c.jsonl", 1, 1),
    ]
    assert [e["row"] for e in found["examples"]] == ["mem:1", "mem:2"]
