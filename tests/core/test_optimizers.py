"""Optimizers: every name that transformers knows is taken or refused with its reason; what is taken resumes bit for bit."""

from __future__ import annotations

import sys

import pytest
import torch
from bp_core import BpError, Trainer
from bp_core.settings.optimizers import REFUSED, TAKEN, default_optimizer, installed
from bp_core.settings.resolve import resolve
from bp_core.training.refusals import contradictions
from bp_core.training.state import load_state
from safetensors.torch import load_file
from stones import quiet, stones
from trajectories import BASE, StopAt
from transformers.training_args import OptimizerNames

CHEAP = ("adagrad", "paged_adamw_8bit")  # a state before the first step; states of 8 bits that share a table


def test_every_name_of_transformers_is_taken_or_refused():
    names = {name.value for name in OptimizerNames}
    assert names == {*TAKEN, *REFUSED}
    assert not set(TAKEN) & set(REFUSED)


@pytest.mark.parametrize(
    "name", ["lomo", "galore_adamw_layerwise", "adamw_torch_4bit", "schedule_free_adamw"]
)
def test_what_is_not_taken_is_refused_with_its_reason(name):
    with pytest.raises(BpError, match=REFUSED[name][:40]) as error:
        resolve({"optim": name})
    assert error.value.code == "CONFIG_INVALID_SETTING"


@pytest.mark.parametrize(
    ("name", "code", "mend"),
    [
        ("stable_adamw", "DEP_OPTIMIZER_MISSING", "pip install torch-optimi"),
        ("lion_8bit", "DEP_BITSANDBYTES_MISSING", "pip install 'bp-core[qlora]'"),
    ],
)
def test_a_package_that_is_missing_is_told_before_anything_is_read(monkeypatch, name, code, mend):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BpError, match=name) as error:
        contradictions(resolve({"optim": name}))
    assert (error.value.code, error.value.hint) == (code, mend)


def test_the_default_is_small_where_the_whole_model_is_trained_or_the_card_is_small(monkeypatch):
    assert default_optimizer("full", "cpu", 0) == "adamw_torch_fused"
    assert default_optimizer("lora", "cuda", 80e9) == "adamw_torch_fused"
    here = {
        name: default_optimizer(name, "cuda", 80e9 if name == "full" else 12e9) for name in ("full", "lora")
    }
    assert set(here.values()) == {"paged_adamw_8bit" if installed("bitsandbytes") else "adamw_torch_fused"}
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert default_optimizer("full", "cuda", 80e9) == "adamw_torch_fused"


@pytest.mark.filterwarnings(
    "ignore:.*not supported on CPU.*:UserWarning"
)  # bitsandbytes: paged is not, there
@pytest.mark.parametrize(
    "name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.slow) for n in TAKEN]
)
def test_a_resumed_run_is_the_one_that_did_not_stop(tmp_path, name):
    """Whole model, so that matrices are large enough for states of 8 bits; the preflight leaves no trace."""
    if not installed(TAKEN[name]):
        pytest.skip(f"{TAKEN[name]} is not installed")
    if name.startswith("paged_ademamix") and not torch.cuda.is_available():
        with pytest.raises(BpError, match="no card"):
            Trainer("tiny", output=tmp_path, tell=quiet, optim=name).train(stones(16), steps=3)
        return
    if TAKEN[name] == "bitsandbytes" and sys.platform == "darwin":
        pytest.skip("bitsandbytes has no CPU optimizers there")
    given = {**BASE, "mode": "full", "optim": name, "learning_rate": 1e-4, "heldout_ratio": 0.0}
    del given["rank"]
    whole = Trainer("tiny", output=tmp_path / "whole", tell=quiet, **given, preflight=False)
    whole = whole.train(stones(16), steps=3)
    stopper = StopAt(1, tmp_path / "cut")
    cut = Trainer("tiny", output=tmp_path / "cut", tell=quiet, callbacks=[stopper], **given)
    first = cut.train(stones(16), steps=3)
    assert first.steps == 2
    resumed = Trainer("tiny", output=tmp_path / "cut", tell=quiet).resume(first.run_id)
    ends = [max((run.path / "checkpoints").iterdir()) for run in (whole, resumed)]
    weights = [load_file(end / "weights.safetensors") for end in ends]
    for name_, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name_]), name_
    assert equal(*(load_state(end, "optimizer") for end in ends))


def equal(one, other):
    """Whether two nested states hold the same values and, of tensors, the same number formats."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(v, other[k]) for k, v in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
