"""Further shapes: each marked text is in the turns, or its key is told, or the row is refused with its own cause."""

import json
import re

import bp_data
import pytest

U, A = {"role": "user", "content": "Zu1"}, {"role": "assistant", "content": "Za1"}
TOOL = {"type": "function", "function": {"name": "f", "description": "Zd1"}}
CALLED = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"c": "Zc1"}}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "Zr1"}


def chat(*messages, **beside):
    return {"messages": list(messages), **beside}


def calling(**call):
    return chat(U, {"role": "assistant", "content": "", "tool_calls": [call]})


def thinking(role, *parts, **beside):
    blocks = [{"type": "thinking", "thinking": "Zt1"}, {"type": "text", "text": "Zx1"}, *parts]
    return {"role": role, "content": blocks, **beside}


TOLD = {
    "a name on a user's turn": (chat({**U, "name": "Zn1"}, A), ["carried messages[].name"]),
    "a name on an answer": (chat(U, {**A, "name": "Zn1"}), ["carried messages[].name"]),
    "a call id on a user's turn": (
        chat({**U, "tool_call_id": "Zn1"}, A),
        ["carried messages[].tool_call_id"],
    ),
    "a result with another name": (
        chat(U, CALLED, {**RESULT, "name": "Zn1"}, A),
        ["carried messages[].name"],
    ),
    "a result with the call's name": (chat(U, CALLED, {**RESULT, "name": "f"}, A), []),
    "reasoning of a user": (
        chat({**U, "reasoning_content": "Zt1"}, A),
        ["unread messages[].reasoning_content"],
    ),
    "reasoning of a tool": (
        chat(U, CALLED, {**RESULT, "reasoning": "Zt1"}, A),
        ["unread messages[].reasoning"],
    ),
    "thinking of a user": (chat(thinking("user"), A), ["unread messages[].content[].thinking"]),
    "reasoning twice": (
        chat(U, thinking("assistant", reasoning_content="Zt2")),
        ["unread messages[].content[].thinking"],
    ),
    "reasoning once, written twice": (chat(U, thinking("assistant", reasoning_content="Zt1")), []),
    "reasoning before a call, twice": (
        chat(
            U,
            {"role": "tool_call", "reasoning": "Zt2", "content": '<think>Zt1</think>{"name": "f"}'},
            RESULT,
            A,
        ),
        ["unread messages[].content"],
    ),
    "thinking in a result": (
        chat(U, CALLED, {**RESULT, "content": None, "parts": thinking("tool")["content"]}, A),
        ["unread messages[].parts[].thinking"],
    ),
    "thinking in a tool_result block": (
        chat(
            U,
            CALLED,
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": thinking("tool")["content"]}
                ],
            },
            A,
        ),
        ["unread messages[].content[].content[].thinking"],
    ),
    "arguments beside the function": (calling(function={"name": "f"}, arguments={"c": "Zc1"}), []),
    "padded arguments before the input": (
        calling(function={"name": "f", "arguments": None, "input": {"c": "Zc1"}}),
        [],
    ),
    "two arguments": (
        calling(function={"name": "f", "arguments": {"c": "Zc1"}, "input": {"c": "Zc2"}}),
        ["unread messages[].tool_calls[].function.input"],
    ),
    "a result in the call": (
        calling(function={"name": "f", "arguments": {"c": "Zc1"}}, result="Zr1"),
        ["unread messages[].tool_calls[].result"],
    ),
    "parameters of a request": (
        chat(U, A, tool_choice={"name": "Zx1"}, prediction={"content": "Zx2"}, parallel_tool_calls=False),
        ["unread tool_choice", "unread prediction", "carried parallel_tool_calls"],
    ),
    "two conversations": (
        chat(U, A, conversations=[{"from": "gpt", "value": "Zx1"}]),
        ["unread conversations"],
    ),
    "functions beside tools": (
        chat(U, A, tools=[TOOL], functions=[{"name": "g", "description": "Zd2"}]),
        ["unread functions"],
    ),
    "a key of dots and brackets": (chat(U, A, **{"messages[].x": "Zx1"}), ["unread messages[].x"]),
    "a key over two lines": (chat(U, A, **{"a\nb": "Zx1"}), ["unread a\nb"]),
    "a key from right to left": (chat(U, A, **{"\u202eabc": "Zx1"}), ["unread \u202eabc"]),
    "annotations": (chat(U, {**A, "annotations": [{"title": "Zx1"}]}), ["unread messages[].annotations"]),
    "content and refusal": (chat(U, {**A, "refusal": "Zx1"}), ["unread messages[].refusal"]),
    "the label's name": ({"text": "Zu1", "label": 0, "label_name": "Zx1"}, ["unread label_name"]),
    "two answers": (
        {"question": "Zu1", "context": "Zx1", "answer": "Za1", "response": "Za2"},
        ["unread response"],
    ),
    "messages as JSON": ({"messages": json.dumps([U, A])}, []),
    "contexts of two lists": (
        {"question": "Zu1", "contexts": {"title": ["Zt1"], "text": ["Zx1"]}, "answer": "Za1"},
        [],
    ),
    "spans that overlap": (
        {
            "text": "Zu1 Zu2 Zu3",
            "spans": [{"start": 0, "end": 7, "label": "ZL1"}, {"start": 4, "end": 11, "label": "ZL2"}],
        },
        [],
    ),
    "a score beside a pair": (
        {"prompt": "Zu1", "chosen": [U, A], "rejected": [U, A | {"content": "Za2"}], "score_chosen": 9},
        ["carried score_chosen"],
    ),
}


@pytest.mark.parametrize("shape", TOLD)
def test_what_is_marked_is_in_the_turns_or_told(shape):
    row, told = TOLD[shape]
    (item,) = bp_data.read([row], force=True)
    assert isinstance(item, bp_data.Example), item
    assert sorted(map(" ".join, item.told)) == sorted(told)
    turns = (*item.turns, *item.chosen, *item.rejected)
    shown = repr([(t.content, t.reasoning, t.tool_calls) for t in turns]) + repr(item.tools)
    lost = {mark for mark in re.findall(r"Z[a-zA-Z]\d", json.dumps(row)) if mark not in shown}
    assert bool(lost) <= bool(told), lost


REFUSED = {
    "calls of a user": (
        chat({**U, "tool_calls": CALLED["tool_calls"]}, A),
        "tool_call_malformed",
        "messages[0].tool_calls",
    ),
    "a call in a result": (
        chat(
            U,
            CALLED,
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "tool_use", "name": "f"}],
                    }
                ],
            },
            A,
        ),
        "unsupported_content_part",
        "messages[2].content[0].content",
    ),
    "neither content nor calls": (
        chat(U, {"role": "assistant", "content": None, "tool_calls": []}),
        "missing_field",
        "messages[1].content",
    ),
    "an unknown role": (chat(U, {"role": "critic", "content": "Zx1"}, A), "unknown_role", "messages[1].role"),
    "half a weight": (chat(U, {**A, "weight": 0.5}), "mistyped_field", "messages[1].weight"),
    "arguments as a list": (
        calling(function={"name": "f", "arguments": ["Zc1"]}),
        "tool_args_invalid_json",
        "messages[1].tool_calls[0].function.arguments",
    ),
    "sound": (chat(U, {**A, "audio": {"id": "Zx1"}}), "unsupported_content_part", "messages[].audio"),
    "a label that is no truth value": (
        {"prompt": "Zu1", "completion": "Za1", "label": 0.7},
        "label_not_bool",
        "label",
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_cause(shape):
    row, reason, field = REFUSED[shape]
    (item,) = bp_data.read([row], force=True)
    assert isinstance(item, bp_data.Rejected), item
    assert (item.reason, item.field) == (reason, field)
