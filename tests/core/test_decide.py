"""Settings that are decided from the preset, the model, the device and the data, once and for good."""

from __future__ import annotations

import pytest
import torch
from bp_core.encoding.dataset import Prepared
from bp_core.encoding.encode import Encoded
from bp_core.encoding.tokens import Tokens
from bp_core.models.device import Device, choose_device
from bp_core.runs.replay import replay
from bp_core.runs.store import RunStore
from bp_core.settings.decided import DECIDABLE, Decided, is_open, value_of
from bp_core.settings.knobs import knob_of
from bp_core.settings.resolve import from_record, resolve
from bp_core.training.decide import decide, warnings_for

PIECE = Encoded((1, 2, 3), bytes([0, 1, 1]), "x")


def data(pieces=1):
    tokens = Tokens.of([[PIECE]] * pieces)
    return Prepared(tokens, tokens, None, {}, (), (), ())


def decided(vocabulary=1024, pieces=1, device=None, settings=None, recommended=None, **given):
    settings = settings or resolve({"model": "tiny", **given})
    device = device or choose_device(settings)
    return decide(settings, recommended or {}, device, data(pieces), vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("vocabulary", "chunk"), [(1024, 1024), (32_000, 1024), (151_936, 441), (262_144, 256), (10**7, 64)]
)
def test_a_chunk_of_logits_stays_within_256_mb(vocabulary, chunk):
    assert decided(vocabulary).loss_chunk == chunk


def test_a_chunk_that_was_asked_for_is_used():
    assert decided(262_144, loss_chunk=2048).loss_chunk == 2048
    assert decided(262_144, loss_chunk=0).loss_chunk == 0


def test_nothing_is_open_after_a_decision_and_a_second_one_changes_nothing():
    first = decided(pieces=40)
    assert {name for name in DECIDABLE if is_open(name, getattr(first, name))} == set()
    assert {name: value_of(first.settings, name) for name in DECIDABLE} == {
        name: getattr(first, name) for name in DECIDABLE
    }
    again = decided(pieces=7, vocabulary=10**6, settings=from_record(first.settings.to_dict()))
    assert {n: getattr(again, n) for n in DECIDABLE} == {n: getattr(first, n) for n in DECIDABLE}
    with pytest.raises(ValueError, match=r"not decided yet: rank, .*steps"):
        Decided.of(resolve({"model": "tiny"}))


def test_the_mark_of_an_open_setting_is_no_value():
    assert {name: knob_of(name).default for name in DECIDABLE if knob_of(name).default is not None} == {
        "target_modules": (),
        "optim": "auto",
        "quantization": "auto",
        "recompute": "auto",
        "attn_implementation": "auto",
    }


@pytest.mark.parametrize(
    ("given", "batch", "accumulation"),
    [
        ({}, 16, 1),
        ({"batch_size": 4}, 4, 4),
        ({"gradient_accumulation": 4}, 4, 4),
        ({"batch_size": 64}, 64, 1),
        ({"batch_size": 3, "gradient_accumulation": 2}, 3, 2),
    ],
)
def test_what_was_given_keeps_its_source(given, batch, accumulation):
    made = decided(pieces=40, **given)
    assert (made.batch_size, made.gradient_accumulation) == (batch, accumulation)
    assert {n for n in ("batch_size", "gradient_accumulation") if made.settings.given(n)} == set(given)
    assert any("more than the 40 examples" in line for line in warnings_for(made, data(40))) == (batch > 40)


def test_epochs_count_steps_and_steps_count_the_rest():
    made = decided(pieces=40, epochs=2.0)
    assert (made.steps, made.settings.sources["training.steps"]) == (6, "default (2 epochs)")
    made = decided(pieces=40, warmup_ratio=0.1)
    assert (made.steps, made.warmup_steps, made.eval_steps, made.save_steps) == (100, 10, 20, 20)
    assert decided(recommended={"steps": 10}).steps == 10
    assert decided(recommended={"steps": 10}, steps=30).steps == 30


def test_a_replay_on_another_machine_keeps_what_was_given_alone(tmp_path):
    card = Device(torch.device("cuda", 0), torch.bfloat16, torch.bfloat16, "NVIDIA there")
    there = decided(
        pieces=40, recommended={"max_seq_length": 512}, batch_size=4, optim="sgd", gradient_checkpointing=True
    ).settings.replace(f"default ({card.name})", packing=True, loss_chunk=64)
    with RunStore(tmp_path).create(
        config=there.to_dict(), sources=there.sources, dataset={}, base_model={"ref": "tiny"}
    ) as run:
        run.finish("completed")
    plan = replay(run.run_id, output=tmp_path)
    assert plan.settings.model.max_seq_length == 2048, "what a model recommended is asked of it again"
    here = decided(pieces=40, settings=plan.settings)
    assert (here.packing, here.loss_chunk) == (False, 1024), "decided there for a card, here for this device"
    assert (here.batch_size, here.optim, here.gradient_checkpointing) == (4, "sgd", True)
