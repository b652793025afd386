"""What is rendered is read back as the same Example, and Arrow invents nothing."""

import json

import bp_data
import pytest
from bp_data.formats import FORMATS

CALL = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ROWS = [dict(f.example) for f in FORMATS.values()] + [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "f"},
            {"role": "assistant", "content": "one", "reasoning_content": "hm", "weight": 0},
            {"role": "assistant", "content": "two"},
        ],
        "tools": [TOOL],
        "source": "web",
    },
]


def read(path, rows):
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return list(bp_data.read(path))


def test_rows_survive_a_round_trip(tmp_path):
    first = read(tmp_path / "a.jsonl", ROWS)
    assert [type(item).__name__ for item in first] == ["Example"] * len(ROWS)
    rendered = [bp_data.to_row(item) for item in first]
    assert read(tmp_path / "a.jsonl", rendered) == first


def test_prompt_and_completion():
    turns = (bp_data.Turn("system", "s"), bp_data.Turn("user", "a"), bp_data.Turn("assistant", "b"))
    example = bp_data.Example("a:1", "a", 1, "chat", turns)
    assert bp_data.to_prompt_completion(example, conversational=False) == {
        "prompt": "s\na",
        "completion": "b",
    }
    row = bp_data.to_prompt_completion(example)
    assert row["completion"] == [{"role": "assistant", "content": "b"}]
    assert bp_data.to_messages(example)["messages"][2] == row["completion"][0]


def test_arrow_and_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra bp-data[hf] is not installed")
    items = read(tmp_path / "a.jsonl", ROWS)
    table = bp_data.to_arrow(items)
    assert table.num_rows == len(ROWS)
    calls = table.to_pylist()[-1]["messages"][2]["tool_calls"]
    assert json.loads(calls) == [CALL]
    dataset = bp_data.to_dataset(items, "prompt_completion")
    assert isinstance(dataset, datasets.Dataset)
    assert len(dataset) == len(ROWS)
    with pytest.raises(ValueError, match="shape"):
        bp_data.to_arrow(items, "chatml")
