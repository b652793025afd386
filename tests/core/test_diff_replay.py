"""Comparing, replaying and rebuilding runs."""

import hashlib
import json
import math
import shutil
import subprocess
import sys

import pytest
from bp_core.errors import CODES, BpError
from bp_core.runs.diff import diff
from bp_core.runs.replay import parse_overrides, replay
from bp_core.runs.store import RunStore
from bp_core.runs.trackers import LocalFile
from bp_core.settings.decided import DECIDABLE
from bp_core.settings.knobs import group_of, knob_of
from bp_core.settings.resolve import resolve
from bp_core.support import environment


def decided(settings):
    """As a run records them: what the user left open is filled in, and says who decided."""
    lora = settings.replace("default (preset balanced)", rank=32, target_modules=("all-linear",), alpha=64.0)
    return lora.replace(
        "default (cpu)", steps=100, batch_size=16, gradient_accumulation=1, learning_rate=2e-4, warmup_steps=3,
        eval_steps=10, save_steps=20, packing=False, gradient_checkpointing=False, optim="adamw_torch_fused",
    )  # fmt: skip


NOW = "2026-11-20T07:34:00+00:00"


def record(store, data=None, *, environment_now=None, result=None, losses=(2.0, 1.0), **given):
    settings = decided(
        resolve({"model": "tiny", "data": (str(data),) if data else (), **given}, folder=store.output)
    )
    for name in given:
        settings = settings.replace("given", **{name: given[name]})
    source = {"source": "in memory"}
    if data is not None:
        source = {"source": str(data), "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    with store.create(
        config=settings.to_dict(),
        sources=settings.sources,
        environment=environment_now or environment.collect(store.output),
        dataset={"sources": [source], "fingerprint": source.get("sha256"), "accepted": 10, "now": NOW},
        base_model={"ref": "tiny", "source": "entry_point"},
        seed=settings.training.seed,
    ) as run:
        for step, loss in enumerate(losses, 1):
            run.metric(step, loss=loss)
        run.finish("completed", result or {"train_loss": losses[-1], "answers": []})
    return run


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a"}\n')
    return path


# ---------------------------------------------------------------------------------------------- diff


def test_a_diff_lists_what_differs_and_counts_what_does_not(tmp_path, data):
    store = RunStore(tmp_path / "out")
    (tmp_path / "out").mkdir()
    a = record(store, data, losses=(3.0, 2.0, math.nan))
    other = environment.collect(tmp_path)
    other["packages"] = {**other["packages"], "torch": "9.9"}
    b = record(
        store,
        data,
        rank=8,
        seed=7,
        losses=(2.0, 1.0),
        environment_now=other,
        result={"train_loss": 1.0, "steps": 2},
    )
    found = diff(store, a.run_id, b.run_id)
    assert found.settings == {"lora.rank": (32, 8), "training.seed": (42, 7)}
    assert found.same_settings > 50
    assert found.inputs == ["seed: 42 → 7"]
    assert len(found.environment) == 1
    assert found.environment[0].startswith("torch ")
    assert found.environment[0].endswith("→ 9.9 (may change the numbers)")
    assert found.outcome["steps"] == (None, 2)
    assert "status" not in found.outcome
    loss = found.metrics["loss"]
    assert (loss.mean_difference, loss.common_steps) == (-1.0, 2)
    assert loss.lowest == (2.0, 1.0)
    assert json.dumps(found.to_dict())
    same = diff(store, a.run_id, a.run_id)
    assert (same.settings, same.inputs, same.environment, same.outcome) == ({}, [], [], {})
    with pytest.raises(BpError):
        diff(store, a.run_id, "nothing")


# -------------------------------------------------------------------------------------------- replay


def test_a_replay_keeps_what_was_given_and_decides_the_rest_again(tmp_path, data):
    store = RunStore(tmp_path / "out")
    (tmp_path / "out").mkdir()
    run = record(store, data, rank=8, batch_size=4, packing=True)
    plan = replay(run.run_id[:-1], output=tmp_path / "out")
    wanted = store.get(run.run_id).config
    wanted["tracking"]["output"] = (tmp_path / "out").as_posix()
    for name in plan.decided_again:
        default = knob_of(name).default
        wanted[group_of(name)][name] = list(default) if isinstance(default, tuple) else default
    assert plan.settings.to_dict() == wanted
    assert set(plan.decided_again) == set(DECIDABLE) - {"rank", "batch_size", "packing"}
    assert (plan.parent, plan.overrides, plan.differences) == (run.run_id, {}, ())
    assert plan.now.isoformat() == NOW, "dated templates see the recorded day"
    assert plan.settings.given("rank")
    assert not plan.settings.given("alpha"), "what the program decided is not the user's"


def test_overrides_are_checked_and_reopen_what_was_decided_from_them(tmp_path, data):
    store = RunStore(tmp_path / "out")
    (tmp_path / "out").mkdir()
    run = record(store, data, save_steps=50)
    plan = replay(
        run.run_id, output=tmp_path / "out", overrides=parse_overrides(["lr=1e-3", "steps=10", "lora-r=4"])
    )
    s = plan.settings
    assert plan.overrides == {"learning_rate": (2e-4, 1e-3), "steps": (100, 10), "rank": (32, 4)}
    assert (s.training.learning_rate, s.training.steps, s.lora.rank) == (1e-3, 10, 4)
    kept = {"save_steps", "learning_rate", "steps", "rank"}
    assert set(plan.decided_again) == (set(DECIDABLE) | {"epochs"}) - kept
    assert (s.training.warmup_steps, s.lora.alpha) == (None, None)
    assert s.training.save_steps == 50, "what the user had set stays"
    assert s.sources["lora.rank"] == "override"
    other = replay(run.run_id, output=tmp_path / "out", overrides={"epochs": "2"})
    assert (other.settings.training.steps, other.settings.training.epochs) == (None, 2.0)
    assert json.dumps(other.to_dict())
    by_epochs = record(store, data, epochs=2.0)
    again = replay(by_epochs.run_id, output=tmp_path / "out").settings.training
    assert (again.epochs, again.steps) == (2.0, None), "steps were counted from the epochs"
    for wrong, part in (
        ({"lerning_rate": 1}, "learning_rate"),
        ({"rank": -1}, "rank"),
        ({"steps": "many"}, "steps"),
    ):
        with pytest.raises(BpError) as caught:
            replay(run.run_id, output=tmp_path / "out", overrides=wrong)
        assert caught.value.code == "CONFIG_INVALID_SETTING"
        assert part in caught.value.message
    with pytest.raises(BpError) as caught:
        parse_overrides(["rank"])
    assert "--override" in caught.value.hint


def test_a_manifest_replays_on_another_machine_and_names_what_differs(tmp_path, data):
    out = tmp_path / "out"
    out.mkdir()
    there = environment.collect(out)
    there["packages"] = {**there["packages"], "peft": "0.1"}
    there["gpus"] = [{"name": "NVIDIA RTX 9090"}]
    run = record(RunStore(out), data, environment_now=there)
    shutil.copy(run.path / "manifest.json", tmp_path / "carried.json")
    shutil.rmtree(out)
    plan = replay(tmp_path / "carried.json", output=tmp_path / "new")
    assert plan.parent == run.run_id
    told = "\n".join(plan.differences)
    assert "GPU NVIDIA RTX 9090 → " in told
    assert "peft 0.1 → " in told
    assert "data file" not in told
    data.write_text("changed")
    assert f"the data file {data} has other content" in replay(tmp_path / "carried.json").differences[0]
    data.unlink()
    assert f"the data file {data} is not here" in replay(tmp_path / "carried.json").differences[0]
    assert not (tmp_path / "new").exists(), "a plan writes nothing"


def test_data_that_was_in_memory_cannot_be_found_again(tmp_path, data):
    out = tmp_path / "out"
    out.mkdir()
    run = record(RunStore(out))
    with pytest.raises(BpError) as caught:
        replay(run.run_id, output=out)
    assert caught.value.code == "INPUT_DATASET_NOT_FOUND"
    assert caught.value.code in CODES
    assert "--override data=" in caught.value.hint
    assert replay(run.path, output=out, overrides={"data": str(data)}).settings.data.data == (str(data),)


@pytest.mark.parametrize("text", ["{", "[]", '{"run_id": 1}', '{"schema_version": 99}'])
def test_a_broken_manifest_is_told(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(BpError) as caught:
        replay(path)
    assert caught.value.code == "INPUT_MANIFEST_INVALID"
    assert caught.value.code in CODES
    assert str(path) in caught.value.hint


# ------------------------------------------------------------------------------------------- rebuild


def test_a_damaged_store_is_rebuilt_by_the_command_its_error_names(tmp_path):
    store = RunStore(tmp_path)
    with store.create(config={"lora": {"rank": 4}}, seed=3, name="kept") as done:
        local = LocalFile(done.path / "metrics.jsonl")
        for step in (1, 2, 3):
            local.log(step, {"loss": 1.0 / step if step < 3 else math.nan})
        local.finish("completed", {})
        done.finish("completed", {"train_loss": 0.5})
    cut = store.create()
    cut.finish("failed")
    (cut.path / "result.json").unlink()
    (tmp_path / "not-a-run").mkdir()
    (tmp_path / "not-a-run" / "manifest.json").write_text("{")
    damaged = (tmp_path / "runs.db").read_bytes()[:4096] + b"\0garbage" * 4096
    (tmp_path / "runs.db").write_bytes(damaged)
    with pytest.raises(BpError) as caught:
        store.list()
    assert caught.value.code == "STATE_RUNS_CORRUPT"
    command = caught.value.hint.split()
    assert command[0] == "python"
    ran = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    assert ran.returncode == 3, ran.stderr
    assert "2 runs restored" in ran.stderr
    assert "passed over not-a-run" in ran.stderr
    record = store.get(done.run_id)
    assert (record.status, record.step, record.seed, record.name) == ("completed", 3, 3, "kept")
    assert record.result == {"train_loss": 0.5}
    assert record.config == {"lora": {"rank": 4}}
    assert [s for s, _ in store.metrics(done.run_id, "loss")] == [1, 2, 3]
    assert store.get(cut.run_id).status == "interrupted", "an end that nobody wrote down is none"
    (kept,) = tmp_path.glob("runs.db.damaged-*")
    assert kept.read_bytes() == damaged
    with store.open(cut.run_id):
        pass
    assert store.get(cut.run_id).status == "completed"
