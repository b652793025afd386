"""A run in its three parts: several on one load of the base model, each as if it had been alone."""

from __future__ import annotations

import hashlib

import pytest
from bp_core import RunStore, Trainer
from bp_core.settings.resolve import resolve
from bp_core.training.deliver import deliver
from bp_core.training.fit import fit
from bp_core.training.open import open_run
from stones import quiet, stones

GIVEN = {"steps": 2, "batch_size": 4, "gradient_accumulation": 1, "rank": 4, "dropout": 0.1, "preview": 0}


def digest(result):
    return hashlib.sha256((result.adapter_path / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs_that_share_a_loaded_model_are_those_that_loaded_their_own(tmp_path, checkpointing):
    given = {**GIVEN, "gradient_checkpointing": checkpointing}
    alone = [
        Trainer("tiny", output=tmp_path, tell=quiet, **given, seed=seed).train(stones()) for seed in (1, 2)
    ]
    model, shared = None, []
    for seed in (1, 2):
        settings = resolve({"model": "tiny", "output": tmp_path, **given, "seed": seed})
        with open_run(settings, sources=stones(), tell=quiet) as opened:
            fitted = fit(opened, model)
            shared.append(deliver(fitted).result)
        model = fitted.model.unload()
    assert [digest(r) for r in shared] == [digest(r) for r in alone]
    assert [RunStore(tmp_path).get(r.run_id).status for r in shared] == ["completed", "completed"]


def test_an_adapter_in_memory_is_continued_and_another_shape_refused(tmp_path):
    first = resolve({"model": "tiny", "output": tmp_path, **GIVEN})
    with open_run(first, sources=stones(), tell=quiet) as opened:
        fitted = fit(opened)
        done = deliver(fitted).result
    on_disk = Trainer("tiny", output=tmp_path, tell=quiet, **GIVEN, init_adapter=done.adapter_path).train(
        stones()
    )
    with open_run(first, sources=stones(), tell=quiet) as opened:
        assert digest(deliver(fit(opened, fitted.model)).result) == digest(on_disk)
    other = resolve({"model": "tiny", "output": tmp_path, **GIVEN, "rank": 8})
    with pytest.raises(ValueError, match="rank 4"), open_run(other, sources=stones(), tell=quiet) as opened:
        fit(opened, fitted.model)
    assert RunStore(tmp_path).get(opened.run.run_id).status == "failed"
