"""Masks on the templates that real models carry."""

from __future__ import annotations

import datetime as dt

import pytest
import real
from bp_core.encoding.encode import Encoder, segments
from bp_data.example import Example, Turn
from hypothesis import HealthCheck, given, settings
from transformers import AutoTokenizer

pytestmark = pytest.mark.real
NOW = dt.datetime(2026, 3, 4)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat(*turns: Turn, tools=()) -> Example:
    return Example("x:1", "x", 1, "chat", turns, tools=tools)


TWO = chat(
    Turn("system", "Be brief."),
    Turn("user", "Hi"),
    Turn("assistant", "Hello."),
    Turn("user", "2+2?"),
    Turn("assistant", "4"),
)
TOOLS = chat(
    Turn("user", "Weather in Oslo?"),
    Turn("assistant", "", tool_calls=(CALL,)),
    Turn("tool", "rain", name="weather"),
    Turn("assistant", "It rains."),
    tools=(TOOL,),
)


def learnt(tokenizer, example: Example):
    encoder = Encoder(tokenizer, now=NOW, max_length=4096)
    pieces = list(encoder.encode([example]))
    return encoder, pieces, [[text for text, on in segments(tokenizer, p) if on] for p in pieces]


def test_qwen3():
    tokenizer = AutoTokenizer.from_pretrained(real.qwen3_tokenizer_dir())
    encoder, pieces, texts = learnt(tokenizer, TWO)
    assert encoder.bos_id is None
    assert texts == [
        ["<think>\n\n</think>\n\nHello.<|im_end|>"],
        ["<think>\n\n</think>\n\n4<|im_end|>"],
    ]  # it rewrites earlier turns: one piece per answer
    assert encoder.split_rows == 1
    assert encoder.stops == {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    thinking = chat(Turn("user", "2+2?"), Turn("assistant", "4", reasoning="easy"))
    assert learnt(tokenizer, thinking)[2] == [["<think>\neasy\n</think>\n\n4<|im_end|>"]]
    _, _, (calling, answering) = learnt(tokenizer, TOOLS)
    assert '"name": "weather"' in calling[0]
    assert calling[0].endswith("</tool_call><|im_end|>")
    assert answering == ["<think>\n\n</think>\n\nIt rains.<|im_end|>"]
    for piece in pieces:
        assert piece.ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_llama31():
    tokenizer = AutoTokenizer.from_pretrained(real.llama31_tokenizer_dir())
    encoder, pieces, texts = learnt(tokenizer, TWO)
    bos = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert texts == [["Hello.<|eot_id|>", "4<|eot_id|>"]]
    (piece,) = pieces
    assert piece.ids[0] == bos
    assert piece.ids.count(bos) == 1
    assert encoder.stops == {tokenizer.convert_tokens_to_ids("<|eot_id|>")}


@pytest.mark.parametrize("directory", ["qwen3_tokenizer_dir", "llama31_tokenizer_dir"])
def test_what_is_learnt_follows_the_prompt_of_generation(directory):
    tokenizer = AutoTokenizer.from_pretrained(getattr(real, directory)())
    encoder, pieces, _ = learnt(tokenizer, TWO)
    prompt = encoder.prompt_ids(TWO.turns[:4])
    last = pieces[-1]
    assert list(last.ids[: len(prompt)]) == prompt
    assert all(last.mask[len(prompt) :])


def test_mistral_nemo_takes_calls_whatever_their_ids():
    tokenizer = AutoTokenizer.from_pretrained(real.mistral_nemo_tokenizer_dir())
    for name in ("call_9fA21bC77d", "a1b2c3d4e", None):
        call = CALL if name is None else {**CALL, "id": name}
        turns = (
            Turn("user", "Weather in Oslo?"),
            Turn("assistant", "", tool_calls=(call,)),
            Turn("tool", "rain", tool_call_id=name),
            Turn("assistant", "It rains."),
        )
        encoder, pieces, texts = learnt(tokenizer, chat(*turns, tools=(TOOL,)))
        (calling, answering) = texts[0]
        assert len(pieces) == 1
        assert calling.startswith('[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}, "id": "')
        assert answering == "It rains.</s>"
        assert encoder.told == ({} if name == "a1b2c3d4e" else {"call_ids_mapped": 1})


def test_mistral_nemo_drops_the_system_text_of_an_answered_turn_and_says_so():
    tokenizer = AutoTokenizer.from_pretrained(real.mistral_nemo_tokenizer_dir())
    (refused,) = Encoder(tokenizer, now=NOW).encode([chat(*TWO.turns[:3])])
    assert refused.reason == "prompt_not_prefix"
    assert "Be brief." in refused.hint


def test_the_plain_llama3_template_refuses_calls_that_it_does_not_render():
    tokenizer = AutoTokenizer.from_pretrained(real.llama31_tokenizer_dir())
    (refused,) = Encoder(tokenizer, now=NOW).encode([TOOLS])
    assert (refused.reason, refused.field) == (
        "answer_not_rendered",
        "turns[1].tool_calls[0].function.name",
    )


@pytest.mark.parametrize("name", ["qwen3", "llama31", "mistral_nemo"])
def test_every_content_is_rendered_or_the_row_is_refused(name):
    from test_encode_fidelity import check, rows

    tokenizer = AutoTokenizer.from_pretrained(getattr(real, f"{name}_tokenizer_dir")())
    taken = []

    @settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(example=rows())
    def any_row(example):
        taken.append(check(tokenizer, example))

    any_row()
    assert any(taken)
