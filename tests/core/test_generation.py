"""Answers: batched as one by one, as transformers answers, by every sampling setting, streamed, stopped, cancelled."""

from __future__ import annotations

import random

import pytest
import torch
from bp_core.generation.answers import LocalModel, answers
from bp_core.generation.decode import Continuation, decode
from bp_core.generation.prompts import Answer, Prompt, read_prompts
from bp_core.generation.sampling import left, penalised
from bp_core.generation.text import Text
from bp_core.settings.groups.generation import GenerationSettings
from bp_data.example import Turn
from bp_merge.common import BpError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    Qwen3Config,
    Qwen3ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

ENDS = frozenset(range(0, 96, 8))
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False}


def gemma():
    """Sliding windows of 8 in every other layer."""
    layers = ["sliding_attention", "full_attention"] * 2
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES, num_hidden_layers=4, sliding_window=8, layer_types=layers)
    )


def qwen():
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_hidden_layers=2))


@pytest.fixture(scope="module", params=[gemma, qwen], ids=["gemma", "qwen"])
def model(request):
    """A random model whose answers vary and end."""
    torch.manual_seed(1)
    made = request.param().eval()
    for name, p in made.named_parameters():
        if p.ndim == 2:
            torch.nn.init.normal_(p, std=1.0 if "embed" in name else 0.35)
    return made


PROMPTS = [[random.Random(i * 99 + k).randrange(1, 96) for k in range(1 + i * 7 % 23)] for i in range(14)]


def made(model, **given):
    chosen = GenerationSettings(**{"max_new_tokens": 20, **given})
    wanted = [Continuation(p, i, n) for i, p in enumerate(PROMPTS) for n in range(chosen.num)]
    for _ in decode(model, wanted, chosen, ends=ENDS, pad=0):
        pass
    return [(c.made, c.finish) for c in wanted]


def by_transformers(model):
    found = []
    for p in PROMPTS:
        ids = torch.tensor([p])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=sorted(ENDS),
            pad_token_id=0,
        )[0, len(p) :].tolist()
        found.append(out[: next((k for k, t in enumerate(out) if t in ENDS), len(out))])
    return found


def test_a_batch_answers_as_each_alone_and_as_transformers(model):
    alone = made(model, batch_size=1)
    assert len({len(ids) for ids, _ in alone}) > 3, "rows end at different steps"
    assert "stop" in {f for _, f in alone}
    assert [ids for ids, _ in alone] == by_transformers(model)
    for size in (3, 4, 32):  # 3 and 4 refill
        assert made(model, batch_size=size) == alone


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.8, "num": 3},
        {"temperature": 1.2, "top_k": 7, "min_p": 0.05},
        {"repetition_penalty": 1.4},
    ],
    ids=str,
)
def test_sampled_answers_do_not_depend_on_the_batch_either(model, given):
    before = torch.get_rng_state(), random.getstate()
    alone = made(model, batch_size=1, **given)
    assert made(model, batch_size=5, **given) == alone
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    if given.get("temperature"):
        assert made(model, batch_size=5, **given, seed=9) != alone
    if given.get("num"):
        one, two = alone[0::3], alone[1::3]
        assert one != two
        assert two == made(model, batch_size=5, **{**given, "num": 1, "seed": 1})


def test_a_model_with_another_cache_answers_in_fixed_batches(model, monkeypatch):
    alone = made(model, batch_size=1)
    monkeypatch.setattr("bp_core.generation.decode.DynamicLayer", int)
    assert made(model, batch_size=5) == alone


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.1, 3),
    st.floats(0.05, 1),
    st.integers(0, 12),
    st.floats(0, 0.9),
    st.floats(0.5, 2),
)
def test_what_may_be_drawn_is_what_transformers_leaves(seed, temperature, top_p, top_k, min_p, penalty):
    torch.manual_seed(seed)
    logits = torch.randn(3, 10) * 3
    ids = torch.randint(0, 10, (3, 4))
    chosen = GenerationSettings(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    seen = torch.zeros(3, 10, dtype=torch.bool).scatter(1, ids, True)
    mine, order = left(penalised(logits, seen, penalty), chosen)
    wanted = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    )
    if top_k:
        wanted.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        wanted.append(TopPLogitsWarper(top_p))
    if min_p:
        wanted.append(MinPLogitsWarper(min_p))
    theirs = wanted(ids, logits.clone()).softmax(-1)
    found = torch.zeros(3, 10).scatter(1, order, mine)
    assert torch.allclose(found, theirs, atol=1e-5)


@pytest.fixture(scope="module")
def local():
    from bp_core.assessment.opening import open_source
    from bp_core.assessment.sources import Source

    return open_source(Source("model", "tiny", "tiny"))


ASKED = [Prompt.of(q) for q in ("What does os.path.join do?", "Hi", "What is a dict? " * 6, "Count to ten.")]


def test_a_stream_joined_is_the_answer(local):
    chosen = GenerationSettings(max_new_tokens=24, temperature=1.0, seed=5)
    whole = [found[0] for found in local.answer(ASKED, chosen)]
    for prompt, expected in zip(ASKED, whole, strict=True):
        *parts, last = local.stream(prompt, chosen)
        assert "".join(parts) == expected.text
        assert last == expected
        assert expected.tokens <= 24
        assert expected.prompt_tokens > 0


def test_a_stop_text_ends_an_answer_and_is_not_shown(local):
    chosen = GenerationSettings(max_new_tokens=40)
    plain = local.answer(ASKED[:1], chosen)[0][0]
    word = plain.text.split()[2]
    cut = GenerationSettings(max_new_tokens=40, stop=(word, "never said"))
    (answer,) = local.answer(ASKED[:1], cut)[0]
    assert answer.text == plain.text[: plain.text.index(word)].strip()
    assert answer.finish == "stop"
    assert answer.tokens < plain.tokens
    *parts, last = local.stream(ASKED[0], cut)
    assert ("".join(parts), last) == (answer.text, answer)


def test_closing_a_stream_ends_the_work(local):
    calls = []
    handle = local.model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        going = local.stream(ASKED[0], GenerationSettings(max_new_tokens=40, temperature=1.0))
        next(going)
        going.close()
        count = len(calls)
    finally:
        handle.remove()
    assert 0 < count < 10


def test_a_system_prompt_is_put_before_and_never_over_ones_own():
    own = Prompt((Turn("system", "Be brief."), Turn("user", "Hi")))
    assert own.asked("Be long.") == own.turns
    assert Prompt.of("Hi").asked("Be long.")[0] == Turn("system", "Be long.")
    assert Prompt.of("Hi").asked() == (Turn("user", "Hi"),)


def test_settings_are_refused_as_the_flags_refuse_them(local):
    with pytest.raises(BpError, match="top_p must be at most 1") as caught:
        answers(local.model, local.encoder, ["Hi"], top_p=1.5)
    assert caught.value.code == "INPUT_VALIDATION_FAILED"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_what_was_shown_is_never_taken_back(text, stop):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = Text(tokenizer, stop)
    parts = []
    for n in range(len(ids) + 1):
        parts.append(shown.take(ids[:n], last=n == len(ids)))
        assert shown.text.startswith("".join(parts)) or not shown.stopped
        if shown.stopped:
            break
    assert "".join(parts) == shown.text
    assert not any(s in shown.text for s in stop)


def _tiny():
    from bp_core.tiny import path

    return path()


TINY = _tiny()


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    assert [(p.text, p.id) for p in read_prompts(tmp_path / "a.txt")] == [("one", "1"), (" two ", "3")]
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "reference": "2"}\n')
    assert [p.text for p in read_prompts(tmp_path / "a.jsonl")] == ["one", "two"]
    (tmp_path / "b.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    )
    assert read_prompts(tmp_path / "b.jsonl")[0].turns == (Turn("user", "q"),)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("none.txt", None, "cannot be read"),
        ("none.jsonl", None, "is not there"),
        ("bytes.txt", b"\xff\xfe\xff", "no UTF-8"),
        ("empty.txt", b"\n \n", "holds no prompt"),
        ("bad.jsonl", b'{"prompt": ""}\n', "line 1"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path, name, data, why):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(BpError, match=why) as caught:
        read_prompts(tmp_path / name)
    assert caught.value.code == "INPUT_PROMPTS_UNREADABLE"


def test_an_answer_is_a_value():
    assert Answer("a", "stop") == Answer("a", "stop", 0, 0, ())
    assert LocalModel.name == ""
