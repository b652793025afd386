"""Rows in = accepted + rejected, whatever the bytes; importing is light; the public names are pinned."""

import json
import random
import subprocess
import sys

import bp_data
import pytest
from bp_data import Example, Limits, Rejected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHAT = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
SEEDS = [
    CHAT,
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"},
    {"instruction": "a", "input": "b", "output": "c"},
    {"prompt": "a", "completion": "b"},
    {"question": "a", "answer": "b"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "a", "completion": "b", "label": True},
    {"text": "a"},
    {"text": "a", "label": 1},
    {"tokens": ["a"], "ner_tags": ["O"]},
    {"input": "a", "output": {"b": 1}},
    {"question": "a", "contexts": ["b"], "answer": "c"},
    {"prompt": "a", "reference": 1},
]
VALUES = [
    None,
    "",
    " ",
    "a",
    0,
    -1,
    1.5,
    2**70,
    True,
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
    {"role": "user"},
    [{"from": 1}],
    "\ud800",
    "{",
    "[1]",
]


def garbage_line(rng: random.Random) -> bytes:
    """A line that may be a good row, a row with wrong values, or bytes."""
    choice = rng.random()
    if choice < 0.1:
        return bytes(rng.choices([b for b in range(256) if b != 10], k=rng.randrange(1, 60)))
    row = json.loads(json.dumps(rng.choice(SEEDS)))
    if choice > 0.4:
        target = row
        while isinstance(target, dict | list) and target and rng.random() < 0.6:
            keys = list(target) if isinstance(target, dict) else range(len(target))
            key = rng.choice(list(keys))
            if rng.random() < 0.5 or not isinstance(target[key], dict | list):
                target[key] = rng.choice(VALUES)
                break
            target = target[key]
    line = json.dumps(row).encode()
    if choice > 0.8:
        at = rng.randrange(len(line))
        line = (
            line[:at] + bytes([rng.choice([0, 9, 13, 34, 92, 123, 125, 255])]) + line[at + rng.randrange(2) :]
        )
    return line


def garbage(path, rows, seed):
    rng = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(rows):
            file.write(garbage_line(rng) + b"\n")


def account(path, rows, **kwargs):
    accepted = rejected = last = 0
    reader = bp_data.read(path, **kwargs)
    for item in reader:
        assert item.line > last
        last = item.line
        if isinstance(item, Example):
            accepted += 1
        else:
            rejected += 1
            assert item.reason in bp_data.REASONS
    assert accepted + rejected + reader.blank == rows
    return accepted, rejected


def test_garbage_rows_are_all_accounted_for(tmp_path):
    path = tmp_path / "garbage.jsonl"
    garbage(path, 20_000, 1)
    accepted, rejected = account(path, 20_000)
    assert accepted > 5_000
    assert rejected > 5_000
    result = bp_data.validate(path, max_errors=0)
    assert (result.accepted, result.rejected) == (accepted, rejected)


@pytest.mark.slow
def test_a_million_garbage_rows(tmp_path):
    path = tmp_path / "garbage.jsonl"
    garbage(path, 1_000_000, 2)
    account(path, 1_000_000)
    assert bp_data.validate(path, max_errors=0).total_samples >= 999_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "text", "prompt", "tool_calls", "function", "name", "arguments", "start", "end", "label"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
fields = st.sampled_from(
    sorted({key for row in SEEDS for key in row} | {"tools", "history", "spans", "system", "meta"})
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(fields, json_values, max_size=4), min_size=1, max_size=4),
    name=st.sampled_from(["auto", *bp_data.FORMATS]),
)
def test_no_json_object_makes_a_format_crash(tmp_path, rows, name):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    items = list(bp_data.read(path, format=name, force=True))
    assert len(items) == len(rows)
    for item in items:
        if isinstance(item, Example):
            bp_data.check(item)
            bp_data.to_row(item)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=400), suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".md"])
)
def test_no_bytes_crash_a_source(tmp_path, data, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    try:
        for item in bp_data.read(path, force=True, limits=Limits(max_row_bytes=1024)):
            assert isinstance(item, Example | Rejected)
    except bp_data.BpError as error:
        assert error.code in bp_data.CODES  # noqa: PT017


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.dictionaries(st.text(max_size=4), json_values.filter(lambda v: v == v), max_size=3),
        min_size=1,
        max_size=6,
    ),
    indent=st.sampled_from([None, 1]),
    block=st.integers(1, 64),
)
def test_the_array_scanner_agrees_with_the_parser_at_any_block_size(values, indent, block):
    import io

    from bp_data.sources import Counts, array

    class Drip(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, block) if size >= 0 else size)

    text = json.dumps(values, indent=indent, allow_nan=True)
    found = [item for batch in array.batches(Drip(text.encode()), "a", Limits(), Counts()) for item in batch]
    assert len(found) == len(values)
    for item, value in zip(found, values, strict=True):
        if isinstance(item, Rejected):
            assert item.reason in ("not_finite", "invalid_json", "lone_surrogate")
        else:
            assert json.dumps(item[1], sort_keys=True) == json.dumps(
                value, sort_keys=True
            ) or "e+" in json.dumps(value)


def test_reading_twice_gives_the_same_values_and_ids(tmp_path):
    path = tmp_path / "a.jsonl"
    garbage(path, 500, 3)
    assert list(bp_data.read(path)) == list(bp_data.read(path))
    assert [i.line for i in bp_data.read(path, max_samples=7)] == [i.line for i in bp_data.read(path)][:7]


def test_fast_construction_gives_the_real_frozen_classes(tmp_path):
    import dataclasses

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(CHAT))
    (example,) = bp_data.read(path)
    assert type(example) is Example
    assert type(example.turns[0]) is bp_data.Turn
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.id = "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.turns[0].content = "x"
    same = Example(
        "a.jsonl:1", "a.jsonl", 1, "chat", (bp_data.Turn("user", "a?"), bp_data.Turn("assistant", "b"))
    )
    assert example == same
    assert dataclasses.replace(example, id="y").id == "y"


def test_public_names():
    expected = {
        "BpError", "CODES", "Conversion", "Detection", "Example", "FORMATS", "FieldMap", "Issue", "KINDS", "Limits",
        "REASONS", "Reader", "Rejected", "TASKS", "Turn", "ValidateSettings", "Validation", "check", "convert", "detect",
        "propose", "read", "report", "split", "to_arrow", "to_dataset", "to_messages", "to_prompt_completion", "to_row",
        "validate",
    }  # fmt: skip
    assert expected <= set(bp_data.__all__)
    for name in bp_data.__all__:
        assert getattr(bp_data, name) is not None


def test_import_is_light():
    code = (
        "import time; t = time.perf_counter(); import bp_data; s = time.perf_counter() - t; import sys;"
        "heavy = {'numpy', 'pyarrow', 'tokenizers', 'torch', 'transformers', 'datasets', 'click', 'orjson'} & set(sys.modules);"
        "bp_data.read; late = {'numpy', 'pyarrow', 'tokenizers', 'torch', 'datasets'} & set(sys.modules);"
        "print(s, sorted(heavy), sorted(late))"
    )
    best = 9.0
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        seconds, rest = out.split(" ", 1)
        assert rest.strip() == "[] []"
        best = min(best, float(seconds))
    assert best <= 0.3
