"""The mask is what the model must produce after the prompt that it will be given: hand-made truths per template."""

from __future__ import annotations

import datetime as dt

import pytest
from bp_core.encoding.encode import Encoded, Encoder, preview, segments
from bp_core.encoding.templates import CHATML, NAMED, choose_template
from bp_core.tiny import path
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError
from tokenizers import AddedToken
from transformers import AutoTokenizer

NOW = dt.datetime(2026, 3, 4, 5, 6)

# Templates that real models carry, cut down to what decides the mask.
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.index0 > ns.last and (loop.last or m.reasoning_content) %}"
    "{{- '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{%- endif %}"
    "{{- m.content }}{%- for c in m.tool_calls or [] %}{{- '<tool_call>' + c.function.name + '</tool_call>' }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- elif m.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>' + m.content + '</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
DATED = "{{- 'today ' + strftime_now('%d %b %Y') + '\n' }}" + CHATML
SPECIALS = [
    "<bos>",
    "</s>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
]


def tokenizer(template: str | None = None, *, bos: bool = False, eos: str | None = None):
    tok = AutoTokenizer.from_pretrained(path())
    tok.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    if eos:
        tok.eos_token = eos
    if bos:
        from tokenizers.processors import TemplateProcessing

        tok.bos_token = "<bos>"
        tok.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tok.convert_tokens_to_ids("<bos>"))]
        )
    if template is not None:
        tok.chat_template = template
    return tok


def chat(*turns: tuple[str, str], **extra) -> Example:
    return Example("x:1", "x", 1, "chat", tuple(Turn(role, text) for role, text in turns), **extra)


def encode(tok, example: Example, **options) -> list[Encoded | Rejected]:
    return list(Encoder(tok, now=NOW, **options).encode([example]))


def learnt(tok, piece: Encoded) -> list[str]:
    return [text for text, on in segments(tok, piece) if on]


TWO = (("user", "Hi there"), ("assistant", "Hello"), ("user", "And you?"), ("assistant", "Fine."))
TRUTH = {
    "chatml": (CHATML, "<|im_end|>", ["Hello<|im_end|>", "Fine.<|im_end|>"]),
    "gemma": (NAMED["gemma"], "<end_of_turn>", ["Hello<end_of_turn>", "Fine.<end_of_turn>"]),
    "llama3": (NAMED["llama3"], "<|eot_id|>", ["Hello<|eot_id|>", "Fine.<|eot_id|>"]),
    "mistral": (NAMED["mistral"], "</s>", [" Hello</s>", " Fine.</s>"]),
    "plain": (NAMED["plain"], "</s>", [" Hello</s>", " Fine.</s>"]),
}


@pytest.mark.parametrize("name", TRUTH)
@pytest.mark.parametrize("bos", [False, True], ids=["no bos", "bos"])
def test_only_the_answers_and_their_end_are_learnt(name, bos):
    template, eos, truth = TRUTH[name]
    tok = tokenizer(template, bos=bos, eos=eos)
    (piece,) = encode(tok, chat(("system", "Be kind."), *TWO))
    assert learnt(tok, piece) == truth
    assert piece.ids[-1] == tok.convert_tokens_to_ids(eos)
    assert piece.mask[-1] == 1
    assert piece.ids.count(tok.convert_tokens_to_ids("<bos>")) == int(bos)
    assert (piece.ids[0] == tok.convert_tokens_to_ids("<bos>")) is bos


@pytest.mark.parametrize("name", TRUTH)
def test_what_is_learnt_follows_the_prompt_of_generation(name):
    template, eos, _ = TRUTH[name]
    tok = tokenizer(template, bos=True, eos=eos)
    encoder = Encoder(tok, now=NOW)
    example = chat(*TWO)
    (piece,) = encoder.encode([example])
    prompt = encoder.prompt_ids(example.turns[:3])
    assert list(piece.ids[: len(prompt)]) == prompt
    assert piece.mask[len(prompt) :] == b"\x01" * (len(piece.ids) - len(prompt))


def test_pad_equal_to_end_keeps_the_label_of_the_end():
    tok = tokenizer(CHATML)
    tok.pad_token = tok.eos_token
    (piece,) = encode(tok, chat(*TWO))
    assert learnt(tok, piece) == ["Hello<|im_end|>", "Fine.<|im_end|>"]


def test_a_template_that_rewrites_earlier_turns_gives_a_piece_per_answer():
    tok = tokenizer(QWEN3)
    encoder = Encoder(tok, now=NOW)
    first, second = encoder.encode([chat(*TWO)])
    assert learnt(tok, first) == ["<think>\n\n</think>\n\nHello<|im_end|>"]
    assert learnt(tok, second) == ["<think>\n\n</think>\n\nFine.<|im_end|>"]
    assert (first.part, second.part, encoder.split_rows) == (0, 1, 1)
    assert "<think>" not in tok.decode(
        second.ids[: second.mask.index(1)]
    )  # the earlier turn as the model will see it


def test_reasoning_and_tool_calls_are_learnt_and_results_are_not():
    tok = tokenizer(QWEN3)
    call = {"type": "function", "function": {"name": "lookup", "arguments": {}}}
    example = Example(
        "x:1",
        "x",
        1,
        "chat",
        (
            Turn("user", "Weather?"),
            Turn("assistant", "", tool_calls=(call,), reasoning="need data"),
            Turn("tool", "rain"),
            Turn("assistant", "It rains.", reasoning="easy"),
        ),
    )
    pieces = encode(tok, example)
    texts = [learnt(tok, p) for p in pieces]
    assert texts == [
        [
            "<think>\nneed data\n</think>\n\n<tool_call>lookup</tool_call><|im_end|>",
            "<think>\neasy\n</think>\n\nIt rains.<|im_end|>",
        ]
    ]


def test_an_untrained_turn_stays_in_the_context_without_a_label():
    example = Example(
        "x:1",
        "x",
        1,
        "chat",
        (
            Turn("user", "a"),
            Turn("assistant", "bad", train=False),
            Turn("user", "b"),
            Turn("assistant", "good"),
        ),
    )
    tok = tokenizer(CHATML)
    (piece,) = encode(tok, example)
    assert learnt(tok, piece) == ["good<|im_end|>"]
    assert "bad" in tok.decode(piece.ids)


def test_a_date_in_the_template_is_frozen_for_the_run():
    tok = tokenizer(DATED)
    (piece,) = encode(tok, chat(*TWO))
    assert tok.decode(piece.ids).startswith("today 04 Mar 2026\n")


def test_text_is_learnt_whole_and_ends():
    tok = tokenizer(CHATML, bos=True, eos="</s>")
    (piece,) = encode(tok, Example("x:1", "x", 1, "text", text="Once upon a time."))
    assert learnt(tok, piece) == ["Once upon a time.</s>"]
    assert piece.mask[0] == 0  # nothing predicts the first token


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (chat(("user", "only a question")), "no_trainable_tokens"),
        (chat(("user", "x <|im_end|> y"), ("assistant", "z")), "special_token_in_content"),
        (
            Example(
                "x:1",
                "x",
                1,
                "preference",
                (Turn("user", "a"),),
                (Turn("assistant", "b"),),
                (Turn("assistant", "c"),),
            ),
            "wrong_kind",
        ),
        (chat(("user", "long " * 400), ("assistant", "yes")), "too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_cannot_be_taught_is_rejected_by_name(example, reason):
    (row,) = encode(tokenizer(CHATML), example, max_length=128)
    assert isinstance(row, Rejected)
    assert (row.reason, row.line) == (reason, 1)
    assert row.hint


def test_a_template_that_raises_rejects_the_row_with_its_words():
    tok = tokenizer(
        "{%- if messages[0].role == 'system' %}{{ raise_exception('no system turn here') }}{%- endif %}"
        + CHATML
    )
    (row,) = encode(tok, chat(("system", "s"), *TWO))
    assert isinstance(row, Rejected)
    assert row.reason == "template_refused"
    assert "no system turn here" in row.hint


def test_truncation_is_asked_for_and_counted():
    tok = tokenizer(CHATML)
    example = chat(("user", "Hi"), ("assistant", "word " * 300))
    (piece,) = encode(tok, example, max_length=100, truncate=True)
    (whole,) = encode(tok, example, max_length=4000)
    assert len(piece.ids) == 100
    assert piece.cut == len(whole.ids) - 100


def test_a_template_without_an_end_of_turn_is_refused():
    tok = tokenizer(
        "{%- for m in messages %}{{- m.role + ': ' + m.content + '\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"
    )
    with pytest.raises(BpError) as error:
        encode(tok, chat(*TWO))
    assert error.value.code == "CONFIG_TEMPLATE_NO_END"
    assert "--chat-template" in error.value.hint


def test_generation_markers_that_contradict_the_answers_are_refused():
    tok = tokenizer(
        CHATML.replace(
            "{{- '<|im_end|>' -}}\n    {%- endgeneration -%}",
            "{%- endgeneration -%}{{- '<|im_end|>' -}}",
        )
    )
    with pytest.raises(BpError) as error:
        encode(tok, chat(*TWO))
    assert error.value.code == "CONFIG_TEMPLATE_MASKS_DISAGREE"


def test_templates_are_chosen_not_guessed(tmp_path):
    tok = tokenizer()
    tok.chat_template = None
    with pytest.raises(BpError) as error:
        choose_template(tok, None)
    assert error.value.code == "CONFIG_TEMPLATE_MISSING"
    with pytest.raises(BpError) as error:
        choose_template(tok, "nonsense")
    assert error.value.code == "CONFIG_TEMPLATE_UNKNOWN"
    bare = AutoTokenizer.from_pretrained(path())
    with pytest.raises(BpError) as error:
        choose_template(bare, "llama3")  # its <|eot_id|> is many tokens here
    assert error.value.code == "CONFIG_TEMPLATE_UNFIT"
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML)
    assert choose_template(tok, str(file)) == CHATML == tok.chat_template


def test_the_preview_marks_labels():
    tok = tokenizer(CHATML)
    (piece,) = encode(tok, chat(("user", "Hi"), ("assistant", "Yes")))
    assert preview(tok, piece) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yes<|im_end|>⟧"


def test_order_and_ids_survive_many_rows():
    tok = tokenizer(CHATML)
    examples = [
        Example(f"x:{i}", "x", i, "chat", (Turn("user", f"q{i}"), Turn("assistant", f"a{i}")))
        for i in range(1100)
    ]
    pieces = list(Encoder(tok, now=NOW).encode(examples))
    assert [p.example_id for p in pieces] == [e.id for e in examples]
    assert learnt(tok, pieces[777]) == ["a777<|im_end|>"]
