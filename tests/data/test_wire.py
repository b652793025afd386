"""Rows in the wire formats of other tools: read back they say the same, or they are refused."""

from __future__ import annotations

import json

import bp_data
import pytest
from bp_data.cli import cli
from bp_data.common import run_command
from bp_data.errors import RowError
from bp_data.example import Example, Turn
from bp_data.render import rows
from bp_data.wire import MAKERS
from hypothesis import given, settings
from hypothesis import strategies as st

CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Rome", "n": 2}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


def chat(*turns, **more):
    return Example("a:1", "a", 1, "chat", turns, **more)


def said(example):
    return [
        (t.role, t.content, [c["function"] for c in t.tool_calls], t.reasoning, t.train)
        for t in example.turns
    ]


FITS = {
    "plain": chat(Turn("user", "Why?"), Turn("assistant", "So.")),
    "system": chat(Turn("system", "Be brief."), Turn("user", "Why?"), Turn("assistant", "So.")),
    "talk": chat(Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d")),
    "unicode": chat(Turn("user", "ß\u2028\u0000x"), Turn("assistant", "日本\n\n  ok ")),
}
ONLY_SHAREGPT = {
    "call": chat(Turn("user", "w?"), Turn("assistant", "", (CALL,)), Turn("tool", "12"), Turn("assistant", "12."), tools=(TOOL,)),
    "calls": chat(Turn("user", "w?"), Turn("assistant", "", (CALL, CALL)), Turn("tool", "1"), Turn("tool", "2"), Turn("assistant", "3"), tools=(TOOL,)),
    "ends with a question": chat(Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")),
}  # fmt: skip
NEITHER = {
    "text beside a call": chat(Turn("user", "w?"), Turn("assistant", "I look.", (CALL,)), Turn("tool", "1"), Turn("assistant", "1"), tools=(TOOL,)),
    "reasoning": chat(Turn("user", "a"), Turn("assistant", "b", reasoning="because")),
    "a pair": Example("a:1", "a", 1, "preference", (Turn("user", "q"),), (Turn("assistant", "x"),), (Turn("assistant", "y"),)),
    "text": Example("a:1", "a", 1, "text", text="prose"),
    "a judgement": Example("a:1", "a", 1, "unpaired", (Turn("user", "q"), Turn("assistant", "x")), label=False),
    "a tool's name": chat(Turn("user", "w?"), Turn("assistant", "", (CALL,)), Turn("tool", "12", name="find"), Turn("assistant", "12."), tools=(TOOL,)),
}  # fmt: skip


@pytest.mark.parametrize("shape", MAKERS)
@pytest.mark.parametrize("name", [*FITS, *ONLY_SHAREGPT, *NEITHER])
def test_what_is_written_says_the_same(shape, name):
    example = (FITS | ONLY_SHAREGPT | NEITHER)[name]
    row, reason = None, ""
    try:
        row = MAKERS[shape](example)
    except RowError as error:
        reason = error.reason
    if row is None:
        assert reason == "shape_cannot_say"
        assert name in NEITHER | {"ends with a question": 0} or (shape == "alpaca" and name in ONLY_SHAREGPT)
        return
    (back,) = bp_data.read([json.loads(json.dumps(row))], format=shape)
    assert said(back) == said(example)
    assert back.tools == example.tools


@pytest.mark.parametrize("name", FITS)
def test_the_common_rows_fit_both(name):
    for make in MAKERS.values():
        assert make(FITS[name])


turn = st.builds(
    Turn,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(max_size=12),
    st.sampled_from([(), (CALL,)]),
    reasoning=st.sampled_from([None, "hm"]),
    train=st.booleans(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(turn, max_size=5), st.sampled_from(sorted(MAKERS)))
def test_any_turns_are_kept_or_refused(turns, shape):
    example = chat(*turns)
    try:
        row = MAKERS[shape](example)
    except RowError:
        return
    (back,) = bp_data.read([json.loads(json.dumps(row))], format=shape, force=True)
    assert said(back) == said(example)


def test_a_refused_row_is_told_and_nothing_is_written_unless_agreed(tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning_content": "c"},
        ]
    }
    file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    out = tmp_path / "out.jsonl"
    argv = ["convert", str(file), "--shape", "sharegpt", "--output", str(out)]
    assert run_command(cli, argv) == 65
    assert not out.exists()
    assert "--drop shape_cannot_say" in capsys.readouterr().err
    assert run_command(cli, [*argv, "--drop", "shape_cannot_say"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    ]


def test_without_a_taker_the_refusal_is_raised():
    with pytest.raises(RowError):
        list(rows([NEITHER["reasoning"]], "alpaca"))


def test_decontaminate_drops_what_overlaps_and_nothing_else(tmp_path, capsys):
    question = "The train leaves Ambleford at seven and arrives in Kestrel Bay two hours and forty minutes later; when does it arrive?"
    lines = [("Why is the sky blue on a clear day at noon?", "Scattering.")] * 2 + [(question, "9:40")]
    file, test, out = tmp_path / "in.jsonl", tmp_path / "test.jsonl", tmp_path / "kept.jsonl"
    file.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in lines))
    test.write_text(json.dumps({"prompt": question, "completion": "at 9:40"}) + "\n")
    assert (
        run_command(cli, ["decontaminate", str(file), "--against", str(test), "-o", str(out), "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["rows_kept"], told["rows_dropped"]) == (2, 1)
    assert len(out.read_text().splitlines()) == 2  # equal rows stay: duplicates are another question
    assert run_command(cli, ["decontaminate", str(file)]) == 1
    assert (
        run_command(cli, ["decontaminate", str(file), "--against", str(tmp_path / "no.jsonl"), "--overwrite"])
        == 1
    )
