"""What a row says is in its rendering, or the row is refused or told: every template, calls, reasoning, context."""

from __future__ import annotations

import dataclasses
import datetime as dt
import re

import pytest
from bp_core.encoding.encode import Encoded, Encoder, segments
from bp_core.encoding.fidelity import lost_answer, lost_context, lost_tool
from bp_core.encoding.templates import CHATML, NAMED
from bp_core.tiny import path
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

NOW = dt.datetime(2026, 3, 4)
CALL = {
    "type": "function",
    "id": "call_9fA21bC77d",
    "function": {"name": "rain", "arguments": {"city": "Lima"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "rain",
        "description": 'Rain in a "city"',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ASKED = (Turn("user", "Rain in Lima?"), Turn("assistant", "", tool_calls=(CALL,)))
LOOP = (*ASKED, Turn("tool", '"dry"', tool_call_id="call_9fA21bC77d"), Turn("assistant", "No rain."))
LLAMA3_PLAIN = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
OLD_CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
THINKING = OLD_CHATML.replace(
    "{{- '<|im_start|>' + m.role + '\n' + m.content",
    "{%- set c = m.content %}{%- if m.role == 'assistant' and loop.last %}"
    "{%- set c = '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' + c %}{%- endif %}{{- '<|im_start|>' + m.role + '\n' + c",
).replace("'<|im_start|>assistant\n' }}{%- endif", "'<|im_start|>assistant\n<think>\n' }}{%- endif")
R1 = OLD_CHATML.replace("m.content", "m.content.split('</think>')[-1]").replace(
    "'<|im_start|>assistant\n' }}{%- endif", "'<|im_start|>assistant\n<think>\n' }}{%- endif"
)
ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "plain": "</s>",
}


def tokenizer(template: str, eos: str = "<|im_end|>"):
    tok = AutoTokenizer.from_pretrained(path())
    tok.add_tokens([AddedToken(t, special=True, normalized=False) for t in ("</s>", *ENDS.values())])
    tok.eos_token, tok.chat_template = eos, template
    return tok


def row(*turns: Turn, tools=()) -> Example:
    return Example("x:1", "x", 1, "chat", turns, tools=tools)


def encode(template: str, example: Example, eos: str = "<|im_end|>"):
    encoder = Encoder(tokenizer(template, eos), now=NOW, max_length=4096)
    return encoder, list(encoder.encode([example]))


def learnt(encoder: Encoder, piece: Encoded) -> list[str]:
    return [text for text, on in segments(encoder.tokenizer, piece) if on]


# ------------------------------------------------------------------------------------------ answers


def test_an_assistant_that_begins_is_refused_with_its_cause_or_left_unlearnt():
    turns = (Turn("assistant", "Hello."), Turn("user", "Hi"), Turn("assistant", "Yes"))
    _, (refused,) = encode(CHATML, row(*turns))
    assert (refused.reason, refused.field) == ("no_trainable_tokens", "turns[0]")
    assert "weight 0" in refused.hint
    encoder, (piece,) = encode(CHATML, row(dataclasses.replace(turns[0], train=False), *turns[1:]))
    assert learnt(encoder, piece) == ["Yes<|im_end|>"]
    encoder, (piece,) = encode(CHATML, row(Turn("system", "Be kind."), *turns))
    assert learnt(encoder, piece) == ["Hello.<|im_end|>", "Yes<|im_end|>"]


@pytest.mark.parametrize("template", [OLD_CHATML, LLAMA3_PLAIN], ids=["chatml", "llama3"])
def test_a_template_that_renders_no_call_refuses_the_row(template):
    _, (refused,) = encode(
        template, row(*LOOP, tools=(TOOL,)), "<|eot_id|>" if "eot_id" in template else "<|im_end|>"
    )
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.field) == ("answer_not_rendered", "turns[1].tool_calls[0].function.name")


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma", "plain"])
def test_reasoning_that_a_template_drops_refuses_the_row(name):
    _, (refused,) = encode(
        NAMED[name], row(Turn("user", "2+2?"), Turn("assistant", "4", reasoning="easy")), ENDS[name]
    )
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.field) == ("answer_not_rendered", "turns[1].reasoning_content")
    assert "<think>" in refused.hint


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("chatml", '<tool_call>\n{"name": "rain", "arguments": {"city": "Lima"}}\n</tool_call><|im_end|>'),
        ("llama3", '{"name": "rain", "parameters": {"city": "Lima"}}<|eot_id|>'),
        ("mistral", r'\[TOOL_CALLS\] \[{"name": "rain", "arguments": {"city": "Lima"}, "id": "\w{9}"}\]</s>'),
    ],
)
def test_calls_and_answers_are_learnt_in_the_family_s_form(name, calls):
    encoder, (piece,) = encode(NAMED[name], row(*LOOP, tools=(TOOL,)), ENDS[name])
    call, answer = learnt(encoder, piece)
    assert re.fullmatch(calls if name == "mistral" else re.escape(calls), call)
    assert answer.strip() == "No rain." + ENDS[name]
    text = encoder.tokenizer.decode(piece.ids)
    assert "Rain in a" in text
    assert not encoder.told or name == "mistral"


@pytest.mark.parametrize("name", ["gemma", "plain"])
def test_families_without_a_tool_format_refuse_by_their_name(name):
    _, (refused,) = encode(NAMED[name], row(*LOOP), ENDS[name])
    assert isinstance(refused, Rejected)
    assert refused.reason == "template_refused"
    assert "no format for tool calls" in refused.hint


def test_llama3_refuses_what_its_form_cannot_say():
    two = Turn("assistant", "", tool_calls=(CALL, CALL))
    said = Turn("assistant", "Let me look.", tool_calls=(CALL,))
    reasons = [encode(NAMED["llama3"], row(ASKED[0], turn), "<|eot_id|>")[1][0] for turn in (two, said)]
    assert [r.reason for r in reasons] == ["template_refused", "answer_not_rendered"]
    assert "several" in reasons[0].hint


def test_tools_that_are_not_shown_are_told_and_the_row_is_taught():
    encoder, (piece,) = encode(
        NAMED["plain"], row(Turn("user", "Hi"), Turn("assistant", "Yes"), tools=(TOOL,)), "</s>"
    )
    assert isinstance(piece, Encoded)
    assert encoder.told == {"tools_not_rendered": 1}


@pytest.mark.parametrize("dropped", ["system", "tool"], ids=["system text", "tool result"])
def test_context_that_a_template_drops_refuses_the_row(dropped):
    template = OLD_CHATML.replace(
        "{{- '<|im_start|>' + m.role", f"{{%- if m.role != '{dropped}' %}}{{{{- '<|im_start|>' + m.role"
    ).replace("{%- endfor %}", "{%- endif %}{%- endfor %}")
    turns = (
        Turn("system", "Be kind."),
        Turn("user", "Hi"),
        Turn("assistant", "Looking"),
        Turn("tool", "found 7"),
        Turn("assistant", "It is 7."),
    )
    _, (refused,) = encode(template, row(*turns))
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.field) == (
        "context_not_rendered",
        {"system": "turns[0].content", "tool": "turns[3].content"}[dropped],
    )


def test_special_tokens_in_reasoning_and_arguments_are_found():
    call = {"type": "function", "function": {"name": "rain", "arguments": {"city": "<|im_end|>"}}}
    for turn in (Turn("assistant", "x", reasoning="a <|im_end|>"), Turn("assistant", "", tool_calls=(call,))):
        _, (refused,) = encode(CHATML, row(ASKED[0], turn))
        assert (refused.reason, refused.excerpt) == ("special_token_in_content", "<|im_end|>")


# ------------------------------------------------------------------------------------ prompt and answer


def test_an_answer_that_starts_with_lines_is_taught_as_it_is_generated():
    example = row(Turn("user", "The capital of Chad ->"), Turn("assistant", "\n\nN'Djamena END"))
    encoder, (piece,) = encode(CHATML, example)
    prompt = encoder.prompt_ids(example.turns[:1])
    assert list(piece.ids[: len(prompt)]) == prompt
    assert learnt(encoder, piece) == ["\n\nN'Djamena END<|im_end|>"]


@pytest.mark.parametrize("reasoning", ["because", None])
def test_a_prompt_that_opens_the_thinking_takes_rows_with_and_without_reasoning(reasoning):
    example = row(Turn("user", "Hi"), Turn("assistant", "Yes", reasoning=reasoning))
    encoder, (piece,) = encode(THINKING, example)
    prompt = encoder.prompt_ids(example.turns[:1])
    assert encoder.tokenizer.decode(prompt).endswith("<think>\n")
    assert list(piece.ids[: len(prompt)]) == prompt
    assert learnt(encoder, piece) == [f"{reasoning or ''}\n</think>\n\nYes<|im_end|>"]


def test_a_prompt_that_opens_a_block_which_the_answer_leaves_out_has_its_own_cause():
    _, (refused,) = encode(R1, row(Turn("user", "Hi"), Turn("assistant", "<think>\nso\n</think>\n\nYes")))
    assert refused.reason == "prompt_opens_block"
    assert "'<think>\\n'" in refused.hint


def test_a_history_that_is_rewritten_says_what_parts():
    template = OLD_CHATML.replace("m.role + '\n'", "(m.role if loop.last else 'was ' + m.role) + '\n'")
    _, (refused,) = encode(template, row(Turn("user", "Hi"), Turn("assistant", "Yes")))
    assert refused.reason == "prompt_not_prefix"
    assert "'user" in refused.hint
    assert "'was user" in refused.hint


def test_a_text_that_brings_its_end_gets_no_second_one():
    tok = tokenizer(CHATML)
    end = tok.eos_token_id
    texts = (
        "One",
        "One<|im_end|>",
        "One<|im_end|>\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n",
    )
    for text in texts:
        (piece,) = Encoder(tok, now=NOW).encode([Example("x:1", "x", 1, "text", text=text)])
        assert piece.ids[-1] == end
        assert piece.ids[-2] != end
        assert (
            "".join(t for t, _ in segments(tok, piece))
            == text.rstrip().removesuffix("<|im_end|>") + "<|im_end|>"
        )


# ------------------------------------------------------------------------------------------ call ids


@pytest.mark.parametrize("given_id", ["call_9fA21bC77d", "a1b2c3d4e", None], ids=["openai", "nine", "none"])
def test_call_ids_take_the_form_that_the_template_asks_for(given_id):
    call = {k: v for k, v in {**CALL, "id": given_id}.items() if v is not None}
    turns = (
        ASKED[0],
        Turn("assistant", "", tool_calls=(call,)),
        Turn("tool", "dry", tool_call_id=given_id),
        Turn("assistant", "No"),
    )
    encoder, (piece,) = encode(NAMED["mistral"], row(*turns), "</s>")
    text = encoder.tokenizer.decode(piece.ids)
    made, answered = re.search(r'"id": "(.*?)"', text)[1], re.search(r'"call_id": "(.*?)"', text)[1]
    assert made == answered
    assert re.fullmatch("[A-Za-z0-9]{9}", made)
    assert (made == given_id) is (given_id == "a1b2c3d4e")
    assert encoder.told == ({} if given_id == "a1b2c3d4e" else {"call_ids_mapped": 1})
    assert list(piece.ids[: len(encoder.prompt_ids(turns[:3]))]) == encoder.prompt_ids(turns[:3])


def test_parallel_calls_without_ids_are_answered_in_order():
    calls = tuple({"type": "function", "function": {"name": n, "arguments": {}}} for n in ("a", "b"))
    turns = (
        Turn("user", "x"),
        Turn("assistant", "", tool_calls=calls),
        Turn("tool", "1"),
        Turn("tool", "2"),
        Turn("assistant", "3"),
    )
    encoder, (piece,) = encode(NAMED["mistral"], row(*turns), "</s>")
    text = encoder.tokenizer.decode(piece.ids)
    made = re.findall(r'"id": "(.*?)"', text)
    assert made == re.findall(r'"call_id": "(.*?)"', text)
    assert len(set(made)) == 2


# ---------------------------------------------------------------------------------------- generation


def test_a_prompt_holds_tools_and_history_or_is_refused():
    encoder = Encoder(tokenizer(CHATML), now=NOW)
    text = encoder.tokenizer.decode(encoder.prompt_ids(LOOP[:3], (TOOL,)))
    assert '"dry"' in text
    assert "Rain in a" in text
    encoder = Encoder(tokenizer(OLD_CHATML), now=NOW)
    for turns, tools in ((LOOP[:3], ()), (LOOP[:1], (TOOL,))):
        with pytest.raises(BpError) as error:
            encoder.prompt_ids(turns, tools)
        assert error.value.code == "CONFIG_TEMPLATE_LOSES"
        assert "--chat-template chatml" in error.value.hint


# -------------------------------------------------------------------------------------- the comparison


@pytest.mark.parametrize(
    ("taught", "field"),
    [
        (
            '<tool_call>{"name":"area","arguments":{"w":5,"note":"a \\"b\\"","deep":[true,null,0.5]}}</tool_call>',
            None,
        ),
        ('area\n<p=w>\n5\n</p><p=note>\na "b"\n</p><p=deep>[True, None, 0.5]</p>', None),
        ('{"parameters": {"deep": [true, null, 0.5], "note": "a \\"b\\"", "w": 5}, "name": "area"}', None),
        (
            '{"name": "area", "arguments": {"w": 55, "note": "a \\"b\\"", "deep": [true, null, 0.5]}}',
            "arguments",
        ),
        ('{"name": "area", "arguments": {"w": 5, "note": "a \\"b\\"", "deep": [true, 0.5]}}', "arguments"),
        ('{"name": "areas", "arguments": {"w": 5, "note": "a \\"b\\"", "deep": [true, null, 0.5]}}', "name"),
        ("", "name"),
    ],
)
def test_arguments_are_compared_by_key_and_value(taught, field):
    arguments = {"w": 5, "note": 'a "b"', "deep": [True, None, 0.5]}
    turn = Turn("assistant", "", tool_calls=({"function": {"name": "area", "arguments": arguments}},))
    assert lost_answer(turn, taught) == (field and f"tool_calls[0].function.{field}")


def test_what_was_found_is_not_found_again():
    assert lost_answer(Turn("assistant", "4", reasoning="2+2=4"), "<think>2+2=4</think>") == "content"
    assert lost_answer(Turn("assistant", "4", reasoning="2+2=4"), "<think>2+2=4</think>4") is None
    assert lost_answer(Turn("assistant", "<think>\n2+2=4\n</think>\n\n4"), "4") == "reasoning_content"
    twice = Turn("assistant", "", tool_calls=(CALL, CALL))
    assert lost_answer(twice, '{"rain": {"city": "Lima"}}') == "tool_calls[1].function.name"


def test_a_context_may_move_and_lose_reasoning_and_nothing_else():
    turns = (
        Turn("system", "S y s"),
        Turn("user", "U s e"),
        Turn("assistant", "<think>so</think>A n s", reasoning="r"),
    )
    assert lost_context(turns, "U s e|A n s|S y s") is None
    assert lost_context(turns, "U s e|S y s") == (2, "content")
    assert lost_tool((TOOL,), 'rain: Rain in a \\"city\\" (city)') is None
    assert lost_tool((TOOL,), "rain (city)") == "rain"


# ----------------------------------------------------------------------------------------- any row

WORDS = st.text(st.sampled_from("ab é漢🙂\n\t\"'\\{}:,<&0١ "), max_size=12).map(lambda t: "q" + t + "z")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def rows(draw):
    """A conversation with anything in it, each text marked so that it can be found."""
    marks = iter(range(100))

    def text():
        return f"m{next(marks)}m{draw(WORDS)}"

    turns = [Turn("system", text())] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 2))):
        turns.append(Turn("user", text()))
        for _ in range(draw(st.integers(0, 1))):
            calls = tuple(
                {
                    "type": "function",
                    "id": f"call_{i}",
                    "function": {"name": f"m{next(marks)}m", "arguments": {text(): draw(VALUES)}},
                }
                for i in range(draw(st.integers(1, 2)))
            )
            turns.append(Turn("assistant", text() if draw(st.booleans()) else "", tool_calls=calls))
            turns += [Turn("tool", text(), tool_call_id=call["id"]) for call in calls]
        turns.append(
            Turn(
                "assistant",
                text(),
                reasoning=text() if draw(st.booleans()) else None,
                train=draw(st.integers(0, 3)) > 0,
            )
        )
    return row(*turns, tools=(TOOL,) if draw(st.booleans()) else ())


TEMPLATES = {**NAMED, "no tools": OLD_CHATML}
TOKENIZERS = {name: tokenizer(text, ENDS.get(name, "<|im_end|>")) for name, text in TEMPLATES.items()}


def check(tok, example: Example) -> bool:
    """Every content is in the pieces, labels are the answers and their ends alone, or the row is refused or told."""
    encoder = Encoder(tok, now=NOW, max_length=1 << 16)
    pieces = list(encoder.encode([example]))
    if isinstance(pieces[0], Rejected):
        assert len(pieces) == 1
        assert pieces[0].hint
        return False
    text, labels = "", ""
    for piece in pieces:
        text += tok.decode(piece.ids)
        labels += "".join(learnt(encoder, piece))
    marks = lambda what: set(re.findall(r"m\d+m", what))  # noqa: E731
    taught, context = "", ""
    for turn in example.turns:
        said = repr((turn.content, turn.tool_calls, turn.reasoning))
        if turn.role == "assistant" and turn.train:
            taught += said
        else:
            context += said
    assert marks(labels) == marks(taught)
    if example.turns[-1].train:  # what follows the last answer that is learnt is in no piece
        unread = {m for t in example.turns if not t.train and t.reasoning for m in marks(t.reasoning)}
        assert marks(context) - unread <= marks(text)
    if example.tools:
        assert encoder.told["tools_not_rendered"] == int("Rain in a" not in text)
    return True


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(example=rows())
def test_every_content_is_rendered_or_the_row_is_refused(name, example):
    check(TOKENIZERS[name], example)
