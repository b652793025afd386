"""What training is told and records of the rows: keys that are not trained on, and rows that validation refuses."""

from __future__ import annotations

import json

import bp_data
import pytest
from bp_core.encoding.dataset import prepare
from bp_core.encoding.encode import Encoder
from bp_core.settings.knobs import Settings
from bp_core.tiny import path
from bp_core.training.objectives.sft import Sft
from transformers import AutoTokenizer

TURNS = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}]
NO_ARGUMENT = {"type": "function", "function": {"name": "rain", "arguments": {}}}
RAIN = {"name": "rain", "parameters": {"type": "object", "properties": {"city": {}}, "required": ["city"]}}
BROKEN = {
    "tools": [RAIN],
    "messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [NO_ARGUMENT]}],
}


@pytest.fixture
def file(tmp_path):
    rows = [{"messages": TURNS, "remark": "why", "id": 1}, {"messages": TURNS}, BROKEN]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def prepared(file, sources=None, **data):
    settings = Settings().replace("test", data=(str(file),), heldout_ratio=0.0, **data)
    said: list[str] = []
    encoder = Encoder(AutoTokenizer.from_pretrained(path()))
    return prepare(settings, encoder, Sft().encode, sources=sources, tell=said.append), "\n".join(said)


def test_a_key_that_is_not_trained_on_is_told_before_training_and_recorded(file):
    found, said = prepared(file)
    assert "not trained on: remark, in 1 row (line 1)" in said
    assert "carried, not trained on: id (1)" in said
    assert [(key["what"], key["path"], key["rows"]) for key in found.record["keys"]] == [
        ("unread", "remark", 1),
        ("carried", "id", 1),
    ]
    found, said = prepared(file, drop_keys="remark")
    assert "not trained on: remark" not in said
    assert found.record["keys"][0]["what"] == "dropped"


@pytest.mark.parametrize("memory", [False, True])
def test_what_validate_calls_an_error_is_not_trained_on(file, memory):
    found = bp_data.validate(file)
    assert found.counts["tool_schema_violation"] == 1
    result, said = prepared(file, list(bp_data.read(file)) if memory else None)
    assert result.record["rejections"] == {"tool_schema_violation": 1}
    assert (result.record["rows"], result.record["accepted"]) == (3, 2)
    assert "tool_schema_violation" in said
