"""Knobs that only look leave the weights bit for bit as they are, dropout on."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from bp_core import Callback, Trainer
from bp_core.models.generators import generators_kept
from safetensors.torch import load_file
from stones import quiet, stones

HELD = {"heldout_ratio": 0.1, "eval_steps": 0}  # one evaluation at the start and one at the end


class Draws(Callback):
    """A callback of a user that draws where it is told of an evaluation."""

    def on_evaluate(self, step, heldout_loss):
        random.random()
        np.random.rand()
        torch.manual_seed(step)


def weights(folder, callbacks=(), **settings):
    result = Trainer(
        "tiny",
        output=folder,
        tell=quiet,
        callbacks=callbacks,
        **{
            **HELD,
            "preview": 0,
            "save_steps": 0,
            "batch_size": 4,
            "dropout": 0.1,
            "max_seq_length": 256,
            **settings,
        },
    ).train(stones(24), steps=4)
    return load_file(result.adapter_path / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return weights(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "settings",
    [
        {"log_prompts": ("Which colour is stone 3?",), "eval_steps": 1},
        {"eval_steps": 1},
        {"eval_steps": 1, "callbacks": (Draws(),)},
        {"preview": 3},
        {"preflight": False},
        {"save_steps": 1},
        pytest.param({"dataloader_workers": 1}, marks=pytest.mark.slow),
    ],
    ids=lambda s: ",".join(s),
)
def test_looking_changes_no_weight(tmp_path, plain, settings):
    other = weights(tmp_path, **settings)
    assert plain.keys() == other.keys()
    assert [name for name in plain if not torch.equal(plain[name], other[name])] == []


def test_generators_are_kept_where_the_block_fails():
    draws = lambda: (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: E731
    with generators_kept():
        expected = draws()
    with pytest.raises(ValueError, match="inside"), generators_kept():
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        raise ValueError("inside")
    assert draws() == expected
