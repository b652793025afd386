"""ORPO, SimPO and KTO: what their losses say by hand and what KTO encodes; and rows that think first."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from bp_core import Trainer
from bp_core.encoding.encode import Encoder
from bp_core.encoding.traces import trace_of
from bp_core.training.objectives.kto import Kto, balanced_weights, kto_loss
from bp_core.training.objectives.orpo import log_odds, odds_ratio_loss
from bp_core.training.objectives.simpo import simpo_loss
from bp_data.example import Example, Rejected, Turn
from moved import moved
from pairs import judged, pairs
from stones import stones


def test_the_losses_by_hand():
    zero = torch.zeros(1)
    assert log_odds(torch.tensor([-math.log(2)])).item() == pytest.approx(0, abs=1e-6)
    assert odds_ratio_loss(torch.tensor([-1.0]), torch.tensor([-1.0])).item() == pytest.approx(math.log(2))
    extreme = log_odds(torch.tensor([0.0, -1e-9, -80.0, -1e4], requires_grad=True))
    assert torch.isfinite(extreme).all()
    assert torch.isfinite(torch.autograd.grad(extreme.sum(), extreme, allow_unused=True)[0]).all()
    assert simpo_loss(zero, zero, gamma=1.0).item() == pytest.approx(1.3133, abs=1e-4)
    both = kto_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor(0.0), beta=0.1, weights=(2.0, 1.0))
    assert both.tolist() == pytest.approx([1.0, 0.5])
    assert balanced_weights(100, 200) == (2.0, 1.0)
    assert balanced_weights(400, 100) == (1.0, 3.0)
    assert balanced_weights(110, 100) == (1.0, 1.0)
    assert balanced_weights(5, 0) == (1.0, 1.0)


def test_kto_reads_judgements_and_pairs_and_puts_foreign_answers_behind_each_prompt():
    encoder = Encoder(moved()[1].tokenizer, max_length=100)
    rows = [*judged(3), pairs(1)[0], stones(1)[0]]
    long = dataclasses.replace(rows[0], turns=(rows[0].turns[0], Turn("assistant", "no " * 150)))
    out = list(Kto().encode(encoder, [*rows, long]))
    units = [o for o in out if not isinstance(o, Rejected)]
    assert len(units) == 5  # three judgements, a pair
    assert sorted(o.reason for o in out if isinstance(o, Rejected)) == ["too_long", "wrong_kind"]
    answers = [
        encoder.tokenizer.decode([i for i, m in zip(p.ids, p.mask, strict=True) if m]) for p, _ in units
    ]
    mates = [encoder.tokenizer.decode([i for i, m in zip(p.ids, p.mask, strict=True) if m]) for _, p in units]
    assert mates == [*answers[1:], answers[0]]
    assert [p.values["desirable"] for p, _ in units] == [1, 0, 1, 1, 0]


def test_reasoning_rows_are_kept_by_the_length_of_their_trace(tmp_path):
    rows = stones(8)

    def reasoning(row, text):
        answer = dataclasses.replace(row.turns[1], content=f"<think>{text}</think>" + row.turns[1].content)
        return dataclasses.replace(row, turns=(row.turns[0], answer))

    mixed = [
        *(reasoning(row, "it is a stone of the third kind") for row in rows[:5]),
        reasoning(rows[5], "so"),
        reasoning(rows[6], "long " * 60),
        rows[7],
    ]
    told = []
    trainer = Trainer(
        "tiny",
        output=tmp_path,
        tell=told.append,
        preview=0,
        reasoning_trace=True,
        min_trace_tokens=4,
        max_trace_tokens=40,
        heldout_ratio=0,
    )
    result = trainer.train(mixed, steps=1)
    assert result.rejections == {"trace_too_short": 1, "trace_too_long": 1, "trace_missing": 1}
    assert trainer.settings.model.max_seq_length == 8192
    assert trace_of(Turn("assistant", "<think> a\nb </think>c")) == "a\nb"
    assert trace_of(Turn("assistant", "c", reasoning="why")) == "why"
    assert Example("a", "b", 1, "chat").turns == ()
