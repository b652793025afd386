"""Preference methods follow one trajectory however a step is cut, halved, packed or resumed; and learn what they are for."""

from __future__ import annotations

import pytest
import torch
from bp_core import RunStore, Trainer
from safetensors.torch import load_file
from stones import quiet
from trajectories import (
    METHODS,
    ROWS,
    StopAt,
    assert_one_trajectory,
    curves_of,
    out_of_memory,
    trainer_of,
    trajectory,
)

PREFERENCE = [method for method in METHODS if method != "sft"]


@pytest.fixture(scope="module", params=PREFERENCE)
def straight(request, tmp_path_factory):
    """(method, its curves): eight units at once."""
    return request.param, trajectory(request.param, tmp_path_factory.mktemp(request.param))[0]


def test_each_method_improves_its_own_objective_on_rows_held_out(straight):
    method, curves = straight
    assert curves["heldout_loss"][-1] < curves["heldout_loss"][0], method
    assert curves["heldout_rewards_accuracy"][-1] > 0.5, method
    if method == "kto":
        assert curves["loss"][0] == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1, "gradient_accumulation": 8},
        {"batch_size": 4, "gradient_accumulation": 2},
        {"packing": True},
    ],
    ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()),
)
def test_one_trajectory(tmp_path, straight, settings):
    method, whole = straight
    assert_one_trajectory(method, trajectory(method, tmp_path, **settings)[0], whole)


@pytest.mark.parametrize(
    "settings", [{"loss_chunk": 0}, {"gradient_checkpointing": True}, {"preflight": False}], ids=str
)
def test_one_trajectory_of_dpo(tmp_path, straight, settings):
    method, whole = straight
    if method == "dpo":  # what these change lies below the objectives
        assert_one_trajectory(method, trajectory(method, tmp_path, **settings)[0], whole)


def test_a_run_that_met_oom_is_the_run_that_did_not(tmp_path, straight):
    method, whole = straight
    rows = 4 if method == "kto" else 8  # sequences of four units
    with out_of_memory(rows, times=1) as left:
        met, result = trajectory(method, tmp_path, preflight=False)
    assert left == [0]
    assert result.micro_batch == 4
    assert_one_trajectory(f"{method} halved", met, whole)
    shrunk = [e for e in RunStore(tmp_path).events(result.run_id) if e.code == "OOM_RECOVERED"]
    assert [(e.details["before"], e.details["after"]) for e in shrunk] == [(8, 4)]


@pytest.mark.parametrize("method", PREFERENCE)
def test_a_resumed_run_is_the_one_that_did_not_stop(tmp_path, method):
    given = {"save_steps": 2, "dropout": 0.1, "packing": method == "orpo"}
    whole = trainer_of(method, tmp_path / "whole", **given).train(ROWS[method](), steps=4)
    trainer = trainer_of(method, tmp_path / "cut", StopAt(1, tmp_path / "cut"), **given)
    cut = trainer.train(ROWS[method](), steps=4)
    assert cut.steps == 2
    stored = cut.path / "tokens" / "train" / "column-reference.npy"
    before = stored.read_bytes() if stored.exists() else b""
    resumed = Trainer("tiny", output=tmp_path / "cut", tell=quiet).resume(cut.run_id)
    assert bool(before) == (method in ("dpo", "kto"))
    assert not before or stored.read_bytes() == before  # the reference stays the model before the first step
    one, other = (load_file(r.adapter_path / "adapter_model.safetensors") for r in (whole, resumed))
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert (
        curves_of(tmp_path / "cut", cut.run_id)["loss"] == curves_of(tmp_path / "whole", whole.run_id)["loss"]
    )
