"""The embedded base model: small, of a real architecture, honest about itself, loadable by anyone."""

from __future__ import annotations

import json
import os
import platform
import re

import pytest
import torch
from bp_core import tiny
from bp_core.tiny import build, corpus
from bp_export.adapter.base import resolve_base
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = tiny.path()
RECORD = json.loads((FOLDER / "build.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def ask(model, tokenizer, question):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=60, do_sample=False)
    return out[0, ids["input_ids"].shape[1] :]


def test_it_is_small_and_in_bf16():
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 2_500_000
    with safe_open(FOLDER / "model.safetensors", "np") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_the_name_resolves_to_it():
    base = resolve_base("tiny")
    assert (base.path, base.source) == (FOLDER, "entry_point")


def test_it_is_a_qwen3_with_tied_embeddings(model):
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.config.tie_word_embeddings
    assert sum(p.numel() for p in model.parameters()) == RECORD["parameters"] == 918_912


def test_the_card_says_what_the_record_says():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{RECORD['heldout_loss']:.3f} nats per token" in card
    assert RECORD["corpus"] in card
    assert "license: psf-2.0" in card
    assert RECORD["heldout_loss"] < 2.8
    assert {"python", "torch", "steps", "recommended"} <= set(RECORD)


def test_special_tokens_and_no_bos(tokenizer):
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == (
        "<|endoftext|>",
        "<|im_end|>",
        None,
    )
    assert tokenizer("Hello").input_ids == tokenizer("Hello", add_special_tokens=False).input_ids
    assert len(tokenizer) == 1024


@pytest.mark.parametrize(
    "text", ["naïve café — 東京 🙂\n\n  x\t= 3.14", "it's 2026, isn't IT'S", "a\r\nb  c   "]
)
def test_bytes_survive_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_it_cuts_digits_one_by_one_as_qwen2_does(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("1234").input_ids) == list("1234")


def test_the_template_marks_the_answer_with_its_end_token(tokenizer):
    turns = [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No."},
    ]
    made = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [i for i, m in zip(made["input_ids"], made["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(learnt) == "Yes.<|im_end|>No.<|im_end|>"


def test_it_answers_in_sentences_and_stops(model, tokenizer):
    for question in ("What does json.dumps do?", "Who founded Glasston?", "Explain the moon."):
        made = ask(model, tokenizer, question)
        text = tokenizer.decode(made, skip_special_tokens=True)
        assert re.fullmatch(r"[A-Z].{8,}\.", text, re.S), text
        assert made[-1] == tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    platform.python_version() != RECORD["python"], reason=f"the corpus is that of Python {RECORD['python']}"
)
def test_the_corpus_is_the_recorded_one():
    documents = [document for document, _ in corpus.entries()]
    assert corpus.fingerprint(documents) == RECORD["corpus"]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_rebuild_reaches_the_recorded_loss(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["build", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        build.main()
    finally:
        torch.set_num_threads(threads)
    made = json.loads((tmp_path / "build.json").read_text(encoding="utf-8"))
    assert abs(made["heldout_loss"] - RECORD["heldout_loss"]) <= 0.05
    assert {p for p in os.listdir(FOLDER) if "." in p} == set(os.listdir(tmp_path))
