"""Every format becomes the one Example, and says by name what is wrong with a row."""

import json

import bp_data
import pytest
from bp_data.errors import RowError
from bp_data.formats import FORMATS, format_named, rank
from bp_data.formats.labels import spans_of_tags


def convert(row, name=None):
    chosen = format_named(name) if name else rank(row)[0][0]
    return chosen.convert(row, "a.jsonl", 1, "a.jsonl:1")


def said(example):
    return [(turn.role, turn.content) for turn in example.turns]


PAIR = [("user", "2 + 2?"), ("assistant", "4")]


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_example_of_each_format_is_recognised_and_read(name):
    chosen = FORMATS[name]
    ranked = rank(dict(chosen.example))
    assert ranked[0][0].name == name
    assert ranked[0][1][0] >= 0.8
    assert ranked[0][1][1]
    assert convert(dict(chosen.example), name).kind in bp_data.KINDS
    assert all(format_named(alias) is chosen for alias in chosen.aliases)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
        {
            "messages": json.dumps(
                [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
            )
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]},
                {"role": "assistant", "content": "4"},
            ]
        },
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
        {"conversation": [{"from": "human", "value": "2 + 2?"}, {"from": "chatgpt", "value": "4"}]},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"instruction": "2 + 2?", "input": "<noinput>", "output": "4"},
        {"instruction": "2 + 2?", "output": "4"},
        {"prompt": "2 + 2?", "completion": "4"},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
        {"question": "2 + 2?", "answer": "4"},
        {"question": "2 + 2?", "answer": 4},
        {"prompt": "2 + 2?", "response": "4"},
        {"input": "2 + 2?", "output": "4"},
    ],
)
def test_one_question_in_many_shapes(row):
    example = convert(row)
    assert said(example) == PAIR
    assert example.kind == "chat"


def test_confidence_says_how_sure_a_name_is():
    score = {tuple(row): rank(row)[0][1][0] for row in (
        {"messages": [{"role": "user", "content": "a"}]}, {"question": "a", "answer": "b"},
        {"prompt": "a", "response": "b"}, {"prompt": "a", "answer": "b"},
    )}  # fmt: skip
    assert score[("messages",)] == 1.0
    assert score["question", "answer"] == score["prompt", "response"] == 0.9
    assert score["prompt", "answer"] < 0.8


def test_alpaca_joins_instruction_and_input_and_keeps_history():
    row = {
        "system": "Be short.",
        "instruction": "Add.",
        "input": "2 and 2",
        "output": "4",
        "history": [["Hi", "Hello"]],
    }
    assert said(convert(row)) == [
        ("system", "Be short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Add.\n2 and 2"), ("assistant", "4"),
    ]  # fmt: skip


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
def test_tool_calls_have_one_form_whatever_the_arguments_were_written_as(arguments):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    row = {
        "tools": [TOOL],
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": {"t": 20}},
            {"role": "assistant", "content": "20", "reasoning_content": "hm", "weight": 0},
        ],
        "id": 7,
    }
    example = convert(row)
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.turns[2].tool_calls[0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert example.turns[3].tool_call_id == "c1"
    assert example.turns[3].content == '{"t":20}'
    assert example.turns[4].reasoning == "hm"
    assert not example.turns[4].train
    assert example.tools[0]["function"]["name"] == "weather"
    assert example.meta == {"id": 7}


def test_sharegpt_tools_and_system():
    row = {
        "system": "s",
        "tools": json.dumps([TOOL["function"]]),
        "conversations": [
            {"from": "human", "value": "?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Paris"}}'},
            {"from": "observation", "value": "20"},
            {"from": "gpt", "value": "20 degrees"},
        ],
    }
    example = convert(row)
    assert [turn.role for turn in example.turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert example.turns[2].tool_calls[0]["function"]["arguments"] == {"city": "Paris"}
    assert example.tools[0] == TOOL


def test_preference_in_four_shapes():
    chat = [{"role": "user", "content": "2 + 2?"}]
    yes, no = {"role": "assistant", "content": "4"}, {"role": "assistant", "content": "5"}
    for row in (
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": chat, "chosen": [yes], "rejected": [no]},
        {"chosen": [*chat, yes], "rejected": [*chat, no]},
        {"prompt": "2 + 2?", "chosen": [*chat, yes], "rejected": [*chat, no]},
        {
            "conversations": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
    ):
        example = convert(row)
        assert example.kind == "preference"
        assert [turns[0].content for turns in (example.turns, example.chosen, example.rejected)] == [
            "2 + 2?",
            "4",
            "5",
        ]
        assert len(example.turns) == len(example.chosen) == len(example.rejected) == 1


@pytest.mark.parametrize(
    ("label", "expected"), [(True, True), (0, False), ("true", True), ("False", False), ("bad", False)]
)
def test_unpaired_labels_are_coerced(label, expected):
    example = convert({"prompt": "2 + 2?", "completion": "4", "label": label})
    assert (example.kind, example.label, said(example)) == ("unpaired", expected, PAIR)


def test_reference_rag_classification_ner_structured():
    example = convert({"prompt": "2 + 2?", "ground_truth": 4, "level": "easy"})
    assert (example.kind, example.reference, example.task, example.meta) == (
        "prompt",
        4,
        "rl",
        {"level": "easy"},
    )
    example = convert(
        {"question": "Where?", "contexts": ["Paris is in France.", {"text": "Second."}], "answer": "France"}
    )
    assert example.task == "rag"
    assert example.meta["contexts"] == ["Paris is in France.", "Second."]
    assert example.turns[0].content == "Context:\nParis is in France.\n\nSecond.\n\nQuestion: Where?"
    squad = convert(
        {"question": "Where?", "context": "c", "answers": {"text": ["France"], "answer_start": [3]}}
    )
    assert squad.reference == "France"
    example = convert({"text": "Great.", "label": 1})
    assert (example.task, example.reference, said(example)[-1]) == ("classification", "1", ("assistant", "1"))
    example = convert(
        {"tokens": ["Ada", "lives", "in", "New", "York"], "ner_tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]}
    )
    assert example.reference == [
        {"start": 0, "end": 3, "label": "PER"},
        {"start": 13, "end": 21, "label": "LOC"},
    ]
    assert json.loads(example.turns[-1].content)[1]["text"] == "New York"
    example = convert({"input": "Ada, 36", "output": {"name": "Ada"}})
    assert (example.task, example.reference, example.turns[1].content) == (
        "structured",
        {"name": "Ada"},
        '{"name":"Ada"}',
    )


def test_an_inside_tag_without_its_begin_opens_a_span():
    assert spans_of_tags(["a", "b", "c"], ["I-X", "I-X", "I-Y"]) == [
        {"start": 0, "end": 3, "label": "X"},
        {"start": 4, "end": 5, "label": "Y"},
    ]


U, A = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "reason", "field"),
    [
        ({"messages": []}, "empty_messages", "messages"),
        ({"messages": "hello"}, "mistyped_field", "messages"),
        ({"messages": None}, "missing_field", "messages"),
        ({"messages": [U, 3]}, "mistyped_field", "messages[1]"),
        ({"messages": [{"content": "a"}, A]}, "missing_field", "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "a"}, A]}, "unknown_role", "messages[0].role"),
        ({"messages": [{"role": "user"}, A]}, "missing_field", "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]}, "unsupported_content_part", "messages[0].content[0]"),
        ({"messages": [U]}, "no_assistant_turn", "messages"),
        ({"messages": [U, {"role": "assistant", "content": " "}]}, "empty_target", "messages[1]"),
        ({"messages": [U, {**A, "tool_calls": [{"function": {}}]}]}, "tool_call_malformed", "messages[1].tool_calls[0]"),
        ({"messages": [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, "tool_args_invalid_json", "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [U, A], "tools": [3]}, "tools_malformed", "tools[0]"),
        ({"prompt": "a", "completion": ""}, "empty_target", "completion"),
        ({"prompt": ["a"], "completion": "b"}, "mistyped_field", "prompt[0]"),
        ({"instruction": "a", "input": "", "output": None}, "missing_field", "output"),
        ({"question": "a", "answer": ["b"]}, "mistyped_field", "answer[0]"),
        ({"chosen": "The sky is blue", "rejected": "The sky is black"}, "no_common_prompt", "chosen"),
        ({"prompt": "a", "completion": "b", "label": "maybe"}, "label_not_bool", "label"),
        ({"text": "a", "label": -1}, "unlabelled", "label"),
        ({"text": " "}, "empty_field", "text"),
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "length_mismatch", "ner_tags"),
        ({"text": "abc", "spans": [{"start": 1, "end": 9, "label": "X"}]}, "bad_span", "spans[0]"),
        ({"question": "a", "contexts": [3], "answer": "b"}, "mistyped_field", "contexts[0]"),
        ({"prompt": [U, A], "reference": "x"}, "mistyped_field", "prompt[1]"),
    ],
)  # fmt: skip
def test_each_refusal_has_its_reason_and_path(row, reason, field):
    with pytest.raises(RowError) as caught:
        convert(row)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.hint
    assert reason in bp_data.REASONS
