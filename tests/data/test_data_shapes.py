"""Shapes that other tools write: each is read as it is meant, or refused with its own cause."""

import json
import shlex

import bp_data
import pytest

U, A = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}
PIRATE = "Talk like a pirate."
CALL = '{"name": "area", "arguments": {"w": 5}}'
USE = {"type": "tool_use", "id": "t1", "name": "area", "input": {"w": 5}}


def read(tmp_path, *rows, **options):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return list(bp_data.read(path, force=True, **options))


def said(item):
    """Turns in short: role:content, reasoning in brackets, calls as name(arguments), `-` where not learnt."""
    out = []
    for turn in item.turns:
        calls = "".join(f" {c['function']['name']}{c['function']['arguments']}" for c in turn.tool_calls)
        thought = f"[{turn.reasoning}] " if turn.reasoning else ""
        out.append(f"{'' if turn.train else '-'}{turn.role}: {thought}{turn.content}{calls}")
    return out


PLAIN = ["user: Where?", "assistant: Here."]
LED = [f"system: {PIRATE}", *PLAIN]
CALLED = ["user: Where?", "assistant:  area{'w': 5}", "tool: 5", "assistant: Here."]
LEGACY = {"role": "assistant", "content": None, "function_call": {"name": "area", "arguments": '{"w": 5}'}}


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        # a system prompt in a column of its own
        ({"system": PIRATE, "messages": [U, A]}, LED),
        ({"system_prompt": PIRATE, "instruction": "Where?", "input": "", "output": "Here."}, LED),
        ({"System Prompt": PIRATE, "prompt": "Where?", "response": "Here."}, LED),
        ({"system_message": PIRATE, "question": "Where?", "answer": "Here."}, LED),
        ({"system": PIRATE, "conversations": [{"from": "system", "value": PIRATE}, {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]}, LED),
        ({"system": PIRATE, "messages": [{"role": "system", "content": "Be brief."}, U, A]}, [f"system: {PIRATE}\n\nBe brief.", *PLAIN]),
        ({"system": PIRATE, "prompt": [U], "completion": [A]}, LED),
        ({"system": PIRATE, "messages": [U, A], "label": True}, LED),
        ({"system": PIRATE, "text": "Where?", "label": "Here."}, LED),
        # history, input, context, reasoning
        ({"query": "Where?", "response": "Here.", "history": [["Hi", "Hello"]]}, ["user: Hi", "assistant: Hello", *PLAIN]),
        ({"prompt": "Where?", "completion": "Here.", "history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, ["user: Hi", "assistant: Hello", *PLAIN]),
        ({"prompt": "Where?", "completion": "Here.", "history": '[["Hi", "Hello"]]'}, ["user: Hi", "assistant: Hello", *PLAIN]),
        ({"question": "Where?", "input": "The letter", "answer": "Here."}, ["user: Where?\nThe letter", "assistant: Here."]),
        ({"prompt": "Where?", "context": "The letter", "completion": "Here."}, ["user: Context:\nThe letter\n\nWhere?", "assistant: Here."]),
        ({"prompt": "Where?", "response": "Here.", "reasoning": "It says so."}, ["user: Where?", "assistant: [It says so.] Here."]),
        ({"question": "Where?", "answer": "Here.", "Chain of Thought": "So."}, ["user: Where?", "assistant: [So.] Here."]),
        ({"messages": [U, A], "thinking": "So."}, ["user: Where?", "assistant: [So.] Here."]),
        ({"messages": [U, {**A, "thought": "So."}]}, ["user: Where?", "assistant: [So.] Here."]),
        # a context stays what it is
        ({"question": "Where?", "context": '{"a": 1}', "answer": "Here."}, ['user: Context:\n{"a": 1}\n\nQuestion: Where?', "assistant: Here."]),
        ({"question": "Where?", "context": "[3, 1, 2]", "answer": "Here."}, ["user: Context:\n[3, 1, 2]\n\nQuestion: Where?", "assistant: Here."]),
        ({"instruction": "Where?", "context": "[1] Smith et al.", "response": "Here."}, ["user: Context:\n[1] Smith et al.\n\nQuestion: Where?", "assistant: Here."]),
        ({"question": "Where?", "context": {"title": "T", "text": "X"}, "answer": "Here."}, ["user: Context:\nT\nX\n\nQuestion: Where?", "assistant: Here."]),
        ({"question": "Where?", "context": {"a": 1}, "answer": "Here."}, ['user: Context:\n{"a":1}\n\nQuestion: Where?', "assistant: Here."]),
        ({"question": "Where?", "contexts": '["A", "B"]', "answer": "Here."}, ["user: Context:\nA\n\nB\n\nQuestion: Where?", "assistant: Here."]),
        ({"question": "Where?", "context": {"title": ["T"], "sentences": [["A.", "B."]]}, "answer": "Here."}, ["user: Context:\nT\nA. B.\n\nQuestion: Where?", "assistant: Here."]),
        # loss switches
        ({"messages": [U, {**A, "train": False}, U, A]}, ["user: Where?", "-assistant: Here.", *PLAIN]),
        ({"messages": [U, {**A, "loss": 0}, U, {**A, "loss": 1.0}]}, ["user: Where?", "-assistant: Here.", *PLAIN]),
        ({"messages": [U, {**A, "masked": True}, U, {**A, "weight": "1"}]}, ["user: Where?", "-assistant: Here.", *PLAIN]),
        ({"prompt": "Where?", "completion": "Here.", "weight": 0}, ["-user: Where?", "-assistant: Here."]),
        ({"conversations": [{"from": "human", "value": "Where?"}, {"from": "function_call", "value": CALL, "weight": 0}, {"from": "observation", "value": "5"}, {"from": "gpt", "value": "Here."}]},
         ["user: Where?", "-assistant:  area{'w': 5}", "tool: 5", "assistant: Here."]),
        ({"messages": [U, {"role": "tool_call", "content": CALL, "train": False}, {"role": "tool_response", "content": "5"}, A]},
         ["user: Where?", "-assistant:  area{'w': 5}", "tool: 5", "assistant: Here."]),
        # calls
        ({"messages": [U, {"role": "function_call", "content": CALL}, {"role": "function_call", "content": CALL}, {"role": "tool", "content": "5"}, {"role": "tool", "content": "5"}, A]},
         ["user: Where?", "assistant:  area{'w': 5} area{'w': 5}", "tool: 5", "tool: 5", "assistant: Here."]),
        ({"messages": [U, {"role": "function_call", "content": f"<think>\nSo.\n</think>\n\n{CALL}"}, {"role": "tool", "content": "5"}, A]},
         ["user: Where?", "assistant: [So.]  area{'w': 5}", "tool: 5", "assistant: Here."]),
        ({"messages": [U, A, {"role": "function_call", "content": CALL}, {"role": "tool", "content": "5"}, A]},
         ["user: Where?", "assistant: Here. area{'w': 5}", "tool: 5", "assistant: Here."]),
        ({"messages": [U, LEGACY, {"role": "function", "name": "area", "content": "5"}, A], "functions": [{"name": "area"}]}, CALLED),
        ({"messages": [U, {"role": "assistant", "content": [{"type": "thinking", "thinking": "So.", "signature": "x"}, {"type": "text", "text": "Wait."}, USE]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "5"}]}]}, A]},
         ["user: Where?", "assistant: [So.] Wait. area{'w': 5}", "tool: 5", "assistant: Here."]),
        # lists of messages in other forms
        ({"messages": [{"role": "user", "parts": [{"text": "Where?"}]}, {"role": "model", "parts": [{"text": "Here."}]}]}, PLAIN),
        ({"conversation": [{"input": "Where?", "output": "Here."}, {"input": "Where?", "output": "Here."}]}, PLAIN * 2),
        ({"conversations": [{"human": "Where?", "gpt": "Here."}]}, PLAIN),
        ({"messages": [U, {"role": "assistant", "content": None, "refusal": "No."}]}, ["user: Where?", "assistant: No."]),
        ({"messages": [U, {"role": "assistant", "content": 4}]}, ["user: Where?", "assistant: 4"]),
        ({"messages": json.dumps([U, A])}, PLAIN),
        # the same names in another case or depth
        ({"Instruction": "Where is it now?", "Input": "The letter", "Output": "Here."}, ["user: Where is it now?\nThe letter", "assistant: Here."]),
        ({"instruction": "Where is it?", "instances": [{"input": "The letter", "output": "Here."}]}, ["user: Where is it?\nThe letter", "assistant: Here."]),
        ({"data": {"prompt": "Where?", "completion": "Here."}}, PLAIN),
        ({"Messages": [U, A]}, PLAIN),
    ],
)  # fmt: skip
def test_each_shape_is_read_as_it_is_meant(tmp_path, row, turns):
    (item,) = read(tmp_path, row)
    assert isinstance(item, bp_data.Example), item
    assert said(item) == turns
    assert [path for what, path in item.told if what == "unread"] == []


@pytest.mark.parametrize(
    ("row", "reason", "cause"),
    [
        ({"message_id": "a", "parent_id": None, "text": "Where?", "role": "prompter"}, "unrecognised_format", "tree"),
        ({"prompt": {"text": "Where?"}, "replies": []}, "unrecognised_format", "tree"),
        ({"premise": "A", "hypothesis": "B", "label": 1}, "unrecognised_format", "{premise}"),
        ({"question": "Where?", "choices": ["A", "B"], "answer": 1}, "unrecognised_format", "--map-json"),
        ({"contents": [{"role": "user", "parts": []}]}, "unrecognised_format", "messages"),
        ({"messages": [U, A], "image": "a.png"}, "unsupported_content_part", "--drop-keys image"),
        ({"messages": [{**U, "audio": "a.wav"}, A]}, "unsupported_content_part", "text"),
        ({"messages": [U, {**A, "weight": 0.5}]}, "mistyped_field", "weight must be 0 or 1"),
        ({"messages": [U, {**A, "weight": 0, "train": True}]}, "mistyped_field", "contradict"),
        ({"prompt": "Where?", "completion": "Here.", "history": "Hi"}, "mistyped_field", "--drop-keys history"),
        ({"messages": [U, {"role": "assistant", "content": [{"type": "image_url", "image_url": "x"}]}]}, "unsupported_content_part", "image_url"),
    ],
)  # fmt: skip
def test_each_refusal_names_its_own_cause(tmp_path, row, reason, cause):
    (item,) = read(tmp_path, row)
    assert isinstance(item, bp_data.Rejected), item
    assert item.reason == reason
    assert cause in item.hint


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Where?", "choices": ["A", "B"], "answer": 1}, ['Where?\n["A","B"]', "1"]),
        ({"premise": "A", "hypothesis": "B", "label": 1}, ["A\nB", "1"]),
    ],
)
def test_the_way_out_of_a_foreign_shape_can_be_pasted(tmp_path, row, said):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    with pytest.raises(bp_data.BpError) as caught:
        list(bp_data.read(path))
    words = shlex.split(caught.value.hint)
    assert words[:4] == ["bp-data", "map", str(path), "--map-json"]
    (item,) = bp_data.read(path, mapping=words[4])
    assert [turn.content for turn in item.turns] == said


PADDED_TOOL = {
    "name": "move",
    "parameters": {"type": "object", "properties": {"x": {"type": "integer"}, "text": None}},
}


def test_nulls_that_arrow_pads_are_absent_and_told(tmp_path):
    call = {"type": "function", "id": None, "function": {"name": "move", "arguments": {"x": 3, "text": None}}}
    row = {
        "tools": [{"type": "function", "function": PADDED_TOOL}],
        "messages": [{**U, "tool_calls": None}, {"role": "assistant", "content": None, "tool_calls": [call]}],
    }
    (item,) = read(tmp_path, row)
    assert item.turns[1].tool_calls[0]["function"]["arguments"] == {"x": 3}
    assert "text" not in item.tools[0]["function"]["parameters"]["properties"]
    assert item.told == (("nulls", "messages[].tool_calls[].arguments"), ("nulls", "tools[]"))
    assert bp_data.validate(tmp_path / "a.jsonl").counts == {"null_dropped": 2}
    call["function"]["arguments"] = '{"x": 3, "text": null}'  # a JSON string means its nulls
    row["tools"] = []
    (item,) = read(tmp_path, row)
    assert item.turns[1].tool_calls[0]["function"]["arguments"] == {"x": 3, "text": None}


def test_declarations_of_anthropic_are_read(tmp_path):
    tool = {"name": "area", "description": "d", "input_schema": {"type": "object"}}
    (item,) = read(tmp_path, {"messages": [U, A], "tools": [tool]})
    assert item.tools[0]["function"] == {"name": "area", "description": "d", "parameters": {"type": "object"}}


def test_further_answers_are_carried(tmp_path):
    row = {
        "question": "Where?",
        "context": "c",
        "answers": {"text": ["Here.", "There."], "answer_start": [0, 3]},
    }
    (item,) = read(tmp_path, row)
    assert item.told == (("carried", "answers[1:]"),)


def test_translations_are_proposed_both_ways_round(tmp_path):
    row = {"source": "Where is the house?", "target": "Wo ist das Haus?"}
    found = bp_data.propose([row] * 3)
    assert found.mapping == {"source": "prompt", "target": "completion"}


def test_arrow_tells_of_rows_that_it_leaves_out(tmp_path):
    items = read(tmp_path, {"messages": [U, A]}, {"messages": [U]})
    with pytest.warns(UserWarning, match="1 refused rows are not in the table, the first a.jsonl:2"):
        table = bp_data.to_arrow(items)
    assert table.num_rows == 1
    left = []
    bp_data.to_arrow(items, rejected=left.append)
    assert [row.reason for row in left] == ["no_assistant_turn"]


PADDED = {"x": 3, "text": None, "at": [{"y": 1, "z": None}]}


@pytest.mark.parametrize("source", ["jsonl", "parquet", "rows"])
@pytest.mark.parametrize("name", ["input", "instruction", "templates"])
def test_nulls_in_an_object_to_be_learnt_are_left_out_and_told_from_every_source(tmp_path, source, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {name: "Go.", "output": PADDED},
        {name: "Stop.", "output": {"x": 3, "text": "t", "at": [{"y": 1, "z": 2}]}},
    ]
    path = tmp_path / f"a.{source}"
    if source == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif source == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    options = {"mapping": {"fields": {name: "prompt"}, "templates": {"completion": "{output}"}}}
    options = options if name == "templates" else {}
    reader = bp_data.read(rows if source == "rows" else path, **options)
    padded, whole = reader
    assert padded.turns[-1].content == '{"x":3,"at":[{"y":1}]}'
    assert (padded.told, whole.told) == ((("nulls", "output"),), ())
    (line,) = reader.account.tell()
    assert "null members of output were left out" in line
    assert "in 1 row (line 1); to keep them, write the object as a JSON string" in line
    assert whole.turns[-1].content == '{"x":3,"text":"t","at":[{"y":1,"z":2}]}'
    (kept,) = bp_data.read([{name: "Go.", "output": json.dumps(PADDED)}], **options)
    assert json.loads(kept.turns[-1].content) == PADDED
    assert not kept.told


def test_nulls_in_a_context_are_told_and_padded_extras_hold_nothing(tmp_path):
    row = {
        "question": "Q?",
        "contexts": [{"a": "b", "c": None}],
        "answer": "A.",
        "extra": {"a": [{"b": None}]},
    }
    (item,) = read(tmp_path, row)
    assert '{"a":"b"}' in item.turns[0].content
    assert item.told == (("nulls", "contexts[]"),)
