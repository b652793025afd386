"""Compiled decoder layers learn what the others do; on a CPU by the C++ compiler of the machine."""

from __future__ import annotations

import pytest
import torch
from bp_core.models.compiled import CompiledLayers
from test_trajectory import assert_same, trajectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.filterwarnings("default")]


def test_compiled_layers_learn_the_same(tmp_path):
    if why := CompiledLayers.missing(torch.device("cpu")):
        pytest.skip(why)
    plain = trajectory(tmp_path / "plain", compile=False, backend="cpu")
    for name, settings in {"compiled": {}, "checkpointed": {"gradient_checkpointing": True}}.items():
        compiled = trajectory(tmp_path / name, compile=True, backend="cpu", **settings)
        assert_same(compiled, plain, worst=1e-4, mean=2e-5)
