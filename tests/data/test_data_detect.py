"""Detection rests on many rows, ranks what it sees, and refuses to guess."""

import json
from pathlib import Path

import bp_data
import pytest
from bp_data import Rejected

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


CHAT = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
ALPACA = {"instruction": "a", "input": "", "output": "b"}


def test_candidates_are_ranked_with_confidence_and_reason(tmp_path):
    found = bp_data.detect(write(tmp_path / "a.jsonl", [{"question": "a?", "answer": "b"}] * 10))
    assert (found.format, found.confidence, found.mixed, found.clear) == ("qa", 0.9, False, True)
    assert "question" in found.candidates[0].rationale
    assert "qa (0.90)" in found.tell()


def test_a_mixed_file_is_told_with_shares_and_read_row_by_row(tmp_path):
    path = write(tmp_path / "a.jsonl", [CHAT, CHAT, CHAT, ALPACA] * 5)
    found = bp_data.detect(path)
    assert found.mixed
    assert [(c.format, c.share) for c in found.candidates[:2]] == [("openai", 0.75), ("alpaca", 0.25)]
    told = []
    assert not any(isinstance(item, Rejected) for item in bp_data.read(path, note=told.append))
    assert "mixed" in told[0]


def test_the_sample_reaches_past_the_head(tmp_path):
    path = write(tmp_path / "a.jsonl", [CHAT] * 3000 + [ALPACA] * 3000)
    found = bp_data.detect(path)
    assert found.mixed
    assert found.sampled > 400


def test_below_080_nothing_is_read_without_a_mapping_a_format_or_force(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "2 + 2?", "answer": "4"}] * 5)
    with pytest.raises(bp_data.BpError) as caught:
        list(bp_data.read(path))
    assert caught.value.code == "INPUT_FORMAT_UNCLEAR"
    assert caught.value.exit_code == 1
    assert "--map" in caught.value.hint
    kinds = {
        "force": next(iter(bp_data.read(path, force=True))).kind,
        "format": next(iter(bp_data.read(path, format="rl"))).kind,
        "mapping": next(iter(bp_data.read(path, mapping="prompt=prompt,answer=completion"))).kind,
    }
    assert kinds["format"] == "prompt"
    assert kinds["mapping"] == "chat"
    assert kinds["force"] in ("prompt", "chat")


def test_rows_at_hand_can_be_detected():
    assert bp_data.detect([CHAT]).format == "openai"
    nothing = bp_data.detect([{"a": 1}])
    assert (nothing.format, nothing.clear) == ("unknown", False)


def test_garbage_alone_is_refused_row_by_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\x80\x81\nnope\n[1]\n")
    items = list(bp_data.read(path))
    assert [item.reason for item in items] == ["invalid_utf8", "invalid_json", "not_an_object"]


@pytest.mark.skipif(not SHARED.exists(), reason="the GSM8K files are not at ../shared/data")
def test_gsm8k_is_question_answer():
    items = list(bp_data.read(SHARED / "gsm8k" / "test.jsonl"))
    assert len(items) == 1319
    assert {item.task for item in items} == {"qa"}
    human_eval = bp_data.detect(SHARED / "human-eval" / "HumanEval.jsonl.gz")
    assert (human_eval.format, human_eval.confidence) == ("prompt", 0.9)
