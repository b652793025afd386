"""DPO: its losses by hand, pairs that are never cut, what is learnt, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from bp_core import RunStore, Trainer
from bp_core.encoding.encode import Encoder
from bp_core.training.objectives.dpo import LOSSES, dpo_loss
from bp_core.training.objectives.pairs import encode_pairs
from bp_data.example import Example, Rejected, Turn
from bp_merge.common import BpError
from moved import moved
from pairs import pairs
from stones import quiet, stones
from trajectories import trajectory


def test_the_losses_by_hand():
    zero = torch.zeros(1)
    assert dpo_loss(zero, zero, beta=0.1).item() == pytest.approx(math.log(2))
    assert dpo_loss(zero, zero, beta=0.1, kind="robust", label_smoothing=0.2).item() == pytest.approx(
        math.log(2)
    )
    assert dpo_loss(zero, zero, beta=0.1, kind="hinge").item() == 1
    assert dpo_loss(zero, zero, beta=0.1, kind="ipo").item() == pytest.approx(25)
    gap = torch.tensor([2.0])
    smoothed = dpo_loss(
        gap, zero, beta=0.5, label_smoothing=0.1
    ).item()  # conservative DPO: a weighted sum of both
    assert smoothed == pytest.approx(0.9 * math.log1p(math.exp(-1)) + 0.1 * math.log1p(math.e))
    with pytest.raises(ValueError, match="sigmoid"):
        dpo_loss(zero, zero, beta=0.1, kind="dpo")


def test_a_pair_shares_its_prompt_and_is_never_half_taken():
    encoder = Encoder(moved()[1].tokenizer, max_length=100)
    rows = pairs(3)
    long = Example(
        **{
            **{f: getattr(rows[0], f) for f in rows[0].__slots__},
            "rejected": (Turn("assistant", "no " * 150),),
        }
    )
    same = Example(**{**{f: getattr(rows[0], f) for f in rows[0].__slots__}, "rejected": rows[0].chosen})
    out = list(encode_pairs(encoder, [rows[0], long, same, *stones(1), rows[1]]))
    assert [type(o).__name__ for o in out] == ["tuple", "Rejected", "Rejected", "Rejected", "tuple"]
    assert [(o.reason, o.field) for o in out if isinstance(o, Rejected)] == [
        ("too_long", "rejected"),
        ("pair_same", "rejected"),
        ("wrong_kind", ""),
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return trajectory("dpo", tmp_path_factory.mktemp("straight"), steps=8)


def test_the_first_loss_is_ln_2_and_pairs_are_learnt(straight):
    curves, result = straight
    assert curves["loss"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert curves["rewards_margin"][0] == pytest.approx(0, abs=1e-5)
    assert curves["loss"][-1] < 0.5
    assert curves["rewards_accuracy"][-1] == 1
    store = RunStore(result.path.parent)
    before, after = (
        [v for _, v in store.metrics(result.run_id, "heldout_rewards_accuracy")][i] for i in (0, -1)
    )
    assert before == 0.5
    assert after > before


def test_what_does_nothing_or_would_cut_an_answer_is_refused_or_told(tmp_path):
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo", truncate=True).train(pairs())
    assert error.value.code == "CONFIG_CONFLICT"
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo", dpo_loss="ipo", label_smoothing=0.1).train(
            pairs()
        )
    assert error.value.code == "CONFIG_CONFLICT"
    told = []
    Trainer("tiny", output=tmp_path, tell=told.append, dpo_beta=0.3, preview=0).train(stones(8), steps=1)
    assert any("--dpo-beta" in line for line in told)
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet, method="dpo").train(stones(8), steps=1)
    assert error.value.code == "INPUT_DATASET_EMPTY"
    assert "wrong_kind" in error.value.message
    assert LOSSES == ("sigmoid", "ipo", "hinge", "robust")
