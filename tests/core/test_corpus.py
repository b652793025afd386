"""Adapters that earlier versions wrote keep loading: in PEFT, here, in a merge, in an export, and to train on from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bp_core import Trainer
from bp_core.generation.load import Tuned
from bp_export import export
from bp_merge import Adapter
from stones import quiet, stones

ENTRIES = sorted((Path(__file__).parents[1] / "corpus").glob("adapter-*"))


@pytest.fixture(params=ENTRIES, ids=lambda p: p.name)
def entry(request):
    return request.param


def test_there_is_one_of_the_first_version():
    assert ENTRIES[0].name == "adapter-0.1.0"


def test_it_says_what_it_said(entry):
    tuned = Tuned.load(entry, backend="cpu")
    said = json.loads((entry / "said.json").read_text(encoding="utf-8"))
    assert {prompt: tuned.answer(prompt, max_new_tokens=24) for prompt in said} == said


def test_it_merges_and_exports(entry, tmp_path):
    adapter = Adapter.load(entry)
    assert adapter.modules
    assert all(np.isfinite(m.a).all() and np.isfinite(m.b).all() for m in adapter.modules.values())
    assert export(entry, format="gguf", quantization="f16", output=tmp_path / "x.gguf").verified


def test_training_goes_on_from_it(entry, tmp_path):
    config = json.loads((entry / "adapter_config.json").read_text(encoding="utf-8"))
    result = Trainer(
        "tiny",
        output=tmp_path,
        tell=quiet,
        init_adapter=entry,
        rank=config["r"],
        alpha=config["lora_alpha"],
        target_modules=tuple(config["target_modules"]),
        steps=1,
        batch_size=2,
        preview=0,
        heldout_ratio=0.0,
    ).train(stones(4))
    assert result.steps == 1
