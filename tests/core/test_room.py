"""Training looks at memory before weights are fetched: it chooses what was left open, tells, and refuses what cannot fit."""

from __future__ import annotations

import json

import bp_core
import pytest
from bp_core.encoding.dataset import Prepared
from bp_core.encoding.encode import Encoded
from bp_core.encoding.tokens import Tokens
from bp_core.errors import BpError
from bp_core.memory.estimate import Overhead
from bp_core.memory.machine import Machine
from bp_core.memory.shortlist import listed
from bp_core.memory.verdict import GB
from bp_core.models.device import choose_device
from bp_core.settings.decided import value_of
from bp_core.settings.resolve import resolve
from bp_core.training.inputs import read_inputs
from bp_core.training.refusals import refuse_early
from bp_core.training.room import make_room
from stones import quiet, stones


def room(tmp_path, gb, *, length=1024, model="qwen-2.5-1.5b", **given):
    (tmp_path / "config.json").write_text(json.dumps(dict(listed(model).config)))
    piece = Encoded(tuple(range(2, 2 + length)), bytes([0] + [1] * (length - 1)), "x")
    tokens = Tokens.of([[piece]] * 40)
    settings = resolve({"model": str(tmp_path), "dtype": "bfloat16", **given})
    here = Machine("cuda", "a card", gb * GB, Overhead.usual("cuda"))
    return make_room(
        settings, tmp_path, choose_device(settings), Prepared(tokens, tokens, None, {}, (), (), ()), here=here
    )


def chosen(settings):
    names = ("preset", "gradient_checkpointing", "batch_size", "gradient_accumulation")
    return tuple(value_of(settings, name) for name in names)


def test_a_large_card_takes_the_whole_step_without_recomputing(tmp_path):
    settings, found = room(tmp_path, 80)
    assert chosen(settings) == ("balanced", False, None, None)  # decide makes the batch the whole step
    assert found.verdict == "fits"


def test_a_smaller_one_recomputes_and_cuts_the_step(tmp_path):
    settings, found = room(tmp_path, 8)
    preset, checkpointing, batch, accumulation = chosen(settings)
    assert (preset, checkpointing) == ("balanced", True)
    assert batch * accumulation == 16
    assert batch < 16
    assert found.needed.total < 8 * GB
    assert "a card" in settings.sources["training.batch_size"]


def test_short_data_counts_as_short(tmp_path):
    given = {"batch_size": 2, "gradient_checkpointing": True}
    short, long = (room(tmp_path, 80, length=n, **given)[1] for n in (64, 1024))
    assert short.needed.components["activations"] < long.needed.components["activations"] / 2


def test_what_was_given_is_kept_or_refused_with_what_would_do(tmp_path):
    settings, _ = room(tmp_path, 80, gradient_checkpointing=True, preset="fast", batch_size=2)
    assert chosen(settings) == ("fast", True, 2, None)
    with pytest.raises(BpError) as caught:
        room(tmp_path, 6, gradient_checkpointing=False, batch_size=16)
    assert caught.value.code == "CONFIG_DOES_NOT_FIT"
    assert "--gradient-checkpointing" in caught.value.hint
    assert caught.value.details["verdict"] == "too large"


def test_what_nothing_makes_fit_names_the_command_that_looks(tmp_path):
    with pytest.raises(BpError) as caught:
        room(tmp_path, 2, model="qwen-2.5-32b")
    assert caught.value.code == "CONFIG_DOES_NOT_FIT"
    assert "backprop estimate-vram" in caught.value.hint


def test_a_dry_run_shows_the_verdict_and_refuses_like_training(tmp_path, monkeypatch):
    (tmp_path / "d.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"Why {i * 7919}?", "completion": "So."}) for i in range(9))
    )
    told = []
    settings = resolve({"model": "tiny", "data": (str(tmp_path / "d.jsonl"),), "output": tmp_path})
    settings, base = refuse_early(settings, told.append)
    device = choose_device(settings)
    plan = read_inputs(settings, base, device, tell=told.append).plan()
    assert plan["memory"]["verdict"] == "fits"
    assert any(line.startswith("memory: fits") for line in told)
    small = Machine("cpu", "a small machine", 1e8, Overhead.usual("cpu"))
    monkeypatch.setattr("bp_core.training.room.machine", lambda **_: small)
    trainer = bp_core.Trainer("tiny", output=tmp_path, tell=quiet)
    with pytest.raises(BpError, match="a small machine"):
        trainer.train(stones(4), steps=1)
    with pytest.raises(BpError, match="a small machine"):
        read_inputs(settings, base, device, tell=quiet)


def test_a_7b_model_is_taken_in_four_bits_where_it_fits_no_other_way(tmp_path):
    settings, found = room(tmp_path, 16, model="qwen-2.5-7b", length=2048)
    assert (settings.model.quantization, settings.lora.preset) == ("nf4", "balanced")
    assert found.verdict == "fits"
    settings, _ = room(tmp_path, 48, model="qwen-2.5-7b", length=2048)
    assert settings.model.wanted_quantization != "nf4"  # there is room for the weights as they are
    with pytest.raises(BpError) as caught:
        room(tmp_path, 12, model="qwen-2.5-7b", quantization="none")
    assert "--load-in-4bit" in caught.value.hint or "estimate-vram" in caught.value.hint


def test_the_whole_model_takes_what_an_adapter_does_not(tmp_path):
    lora, full = (room(tmp_path, 200, model="qwen-2.5-1.5b", mode=mode)[1] for mode in ("lora", "full"))
    assert full.needed.total > lora.needed.total + 10 * 1.5e9
