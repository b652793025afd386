"""Sessions whose runs train the whole model."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from bp_core import RunStore, Trainer
from bp_core.continual.ledger import Ledger
from bp_core.continual.remerge import remerge
from bp_core.continual.whole import coefficients, drift
from bp_core.encoding.dataset import load
from bp_core.tiny import path as tiny
from bp_data.example import Example, Turn
from safetensors.torch import load_file
from stones import quiet
from test_continual import Stop
from transformers import AutoModelForCausalLM

GIVEN = {
    "mode": "full",
    "steps": 2,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rate": 1e-3,
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 1,
    "max_seq_length": 256,
    "heldout_ratio": 0.25,
    "preflight": False,
    "monitor": False,
}


def task(name, count=12):
    return [
        Example(
            f"{name}:{i}",
            name,
            i + 1,
            "chat",
            turns=(Turn("user", f"The {name} of {i}?"), Turn("assistant", f"{name} {i}.")),
        )
        for i in range(count)
    ]


TASKS = {name: task(name) for name in ("stone", "leaf", "star")}


def trainer(folder, callbacks=(), **settings):
    return Trainer("tiny", output=folder, tell=quiet, callbacks=callbacks, **{**GIVEN, **settings})


def weights(folder):
    return load_file(folder / "model.safetensors")


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    t = trainer(folder)
    return folder, t, t.multi_run(TASKS, drift_gate=True, drift_threshold=-1.0)


def test_the_share_of_each_run_follows_from_the_fold():
    assert coefficients(lambda i: 1 / i, 4) == pytest.approx((0.25,) * 4)
    two = 1 / math.sqrt(2)
    assert coefficients(lambda i: 1 / math.sqrt(i), 2) == pytest.approx((1 - two, two))
    assert sum(coefficients(lambda i: 1 / math.sqrt(i), 7)) == pytest.approx(1)


def test_the_result_is_the_mean_of_the_runs_as_the_fold_weighs_them(done):
    folder, _, result = done
    runs = [weights(folder / r["run_id"] / "model") for r in result.runs]
    shares = coefficients(lambda i: 1 / math.sqrt(i), 3)
    found = weights(result.adapter_path)
    for name, tensor in found.items():
        expected = sum(c * run[name].double() for c, run in zip(shares, runs, strict=True))
        assert torch.allclose(tensor.double(), expected, rtol=1e-2, atol=1e-6), name
    # each run began where the merge stood, but the first
    store = RunStore(folder)
    starts = [store.get(r["run_id"]).config["model"]["model"] for r in result.runs]
    assert starts[0] == "tiny"
    assert [s.rsplit("/", 1)[-1] for s in starts[1:]] == ["merged-1", "merged-2"]
    assert [a.kind for a in store.artifacts(result.run_id) if a.path == result.adapter_path] == ["model"]


def test_the_delivered_model_reloaded_gives_the_sessions_last_figures(done):
    _, t, result = done
    model = AutoModelForCausalLM.from_pretrained(result.adapter_path, dtype=torch.float32)
    for k, expected in enumerate(result.forgetting["loss"]["matrix"][-1]):
        held, loss, labels = load(result.path / "tasks" / str(k)).heldout, 0.0, 0
        for unit in held:
            ids = torch.tensor(unit[0].ids[None].astype(np.int64))
            mask = torch.tensor(unit[0].mask[1:].astype(bool))
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].double()
            loss -= float(torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0][mask].sum())
            labels += int(mask.sum())
        assert loss / labels == pytest.approx(expected, abs=1e-6)
    own = t._last.model.state_dict()
    assert all(torch.equal(own[n], v.to(own[n].dtype)) for n, v in weights(result.adapter_path).items())


def test_drift_is_the_cosine_over_all_weights(done):
    folder, _, result = done
    base, first, second = tiny(), *(folder / r["run_id"] / "model" for r in result.runs[:2])
    assert drift(base, first, first, base) == pytest.approx(1)
    assert drift(base, first, second, second) == 0
    flat = [
        torch.cat([t.double().flatten() for _, t in sorted(weights(f).items())])
        for f in (base, first, second)
    ]
    before, change = flat[1] - flat[0], flat[2] - flat[0]
    expected = float(torch.nn.functional.cosine_similarity(before, change, dim=0))
    assert drift(base, first, second, base) == pytest.approx(expected, abs=1e-6)
    assert "cosine" in result.runs[1]["facts"]


def test_merging_anew_needs_no_training(done):
    folder, _, result = done
    before = digest(result.adapter_path)
    _, path, facts = remerge(folder, result.run_id, "ties")
    assert facts["method"] == "ties"
    assert AutoModelForCausalLM.from_pretrained(path).config.model_type
    assert (path / "tokenizer.json").is_file()
    _, path, _ = remerge(folder, result.run_id, "simple")
    assert digest(path) == digest(folder / result.runs[-1]["run_id"] / "model")
    assert digest(result.adapter_path) == before
    assert set(result.compared) == {
        "simple",
        "slao_delta",
        "qiao_mahdavi",
        "running_mean",
        "task_arithmetic",
        "ties",
    }


def test_a_session_cut_off_ends_in_the_same_bits(done, tmp_path):
    _, _, whole = done
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, callbacks=[Stop(2, 2)]).multi_run(TASKS, drift_gate=True, drift_threshold=-1.0)
    (session,) = RunStore(tmp_path).list(kind="multi-run")
    assert len(Ledger.load(session.path).rounds) == 2
    again = trainer(tmp_path).multi_run(TASKS, drift_gate=True, drift_threshold=-1.0)
    assert again.run_id == session.run_id
    assert digest(again.adapter_path) == digest(whole.adapter_path)
    assert again.forgetting == whole.forgetting


def test_a_method_that_weighs_all_runs_starts_from_the_run_before_or_cold(tmp_path):
    two = {k: TASKS[k] for k in ("stone", "leaf")}
    warm = trainer(tmp_path / "warm", steps=1).multi_run(two, merge_strategy="ties", compare_methods=False)
    starts = [RunStore(tmp_path / "warm").get(r["run_id"]).config["model"]["model"] for r in warm.runs]
    assert starts[1].endswith(f"{warm.runs[0]['run_id']}/model")
    cold = trainer(tmp_path / "cold", steps=1).multi_run(
        two, merge_strategy="dare", start="cold", compare_methods=False
    )
    assert {RunStore(tmp_path / "cold").get(r["run_id"]).config["model"]["model"] for r in cold.runs} == {
        "tiny"
    }
