"""Two processes train as one: what they exchange, one trajectory for every method, one record, and how they end."""

from __future__ import annotations

import json

import pytest
import torch
from bp_core import RunStore, Trainer
from bp_core.support.launch import VARIABLES, Launch, launch
from bp_core.training import processes
from launched import STEPS
from provoked import provoke
from safetensors.torch import load_file
from stones import quiet, stones
from torchrun import HERE, torchrun
from trajectories import METHODS, assert_one_trajectory, curves_of, trajectory

pytestmark = pytest.mark.timeout(600)  # two processes load torch


def lines(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_what_two_processes_exchange_and_how_one_sees_the_other_fail(tmp_path):
    done = torchrun(str(HERE / "exchange.py"), str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    gone = json.loads((tmp_path / "gone.json").read_text(encoding="utf-8"))
    assert gone == {"gone": "RUNTIME_PROCESS_LOST"}
    first, second = sorted(told, key=lambda seen: seen["failure"] == "ValueError")
    for seen in (first, second):
        assert seen["world"] == 2
        assert seen["facts"] == {"failed": False, "told": [1, "two"]}
        assert seen["gathered"] == [[{"rank": 0}, {"rank": 1}], [None, None]]
        assert seen["long"]
        assert seen["least"] == 3
        assert seen["sums"] == [3.0, 0.2, 6.0, 3.0]
        assert seen["gradients"] == [[2.0, 2.0], [5.0, 5.0], None]
        assert seen["same"] == [0.0, 0.0]
        assert seen["memory"] == "OutOfMemoryError"
        assert seen["first"] == "done by rank 0"
        assert "code='X', save=False, error=BpError('hot')" in seen["orders"]["stop"]
        assert seen["orders"]["hold"] == "Hold()"
        assert "code='Y'" in seen["orders"]["both"]
        assert seen["orders"]["none"] == "None"
    assert (first["failure"], first["worse"]) == ("RUNTIME_PROCESS_LOST", "RUNTIME_PROCESS_LOST")
    assert (second["failure"], second["worse"]) == ("ValueError", "ValueError")


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What two processes made of the same runs, and their output folder."""
    folder = tmp_path_factory.mktemp("launched")
    (told,) = lines(torchrun(str(HERE / "launched.py"), str(folder / "runs"), cwd=folder))
    assert told["world"] == [2, 2]
    return told, folder / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_follow_the_trajectory_of_one(tmp_path, launched, method):
    alone, result = trajectory(method, tmp_path, steps=STEPS)
    together = launched[0][method]
    assert_one_trajectory(f"{method} two processes", together["curves"], alone)
    for name in {"heldout_loss", "heldout_rewards_accuracy"} & set(alone):
        assert together["curves"][name] == pytest.approx(alone[name], rel=1e-5), name
    one, other = (
        load_file(f"{path}/adapter_model.safetensors") for path in (together["adapter"], result.adapter_path)
    )
    assert set(one) == set(other)
    for name, weight in other.items():  # Adam makes much of a gradient that is nearly 0: the norm is compared
        assert float((one[name] - weight).norm()) <= 3e-3 * float(weight.norm()) + 1e-7, name


@pytest.mark.slow
def test_two_processes_train_the_whole_model_as_one_does(tmp_path, launched):
    given = {"mode": "full", "learning_rate": 5e-4, "steps": STEPS}
    alone, result = trajectory("sft", tmp_path, **given)
    together = launched[0]["full"]
    assert_one_trajectory("full two processes", together["curves"], alone)
    one, other = (load_file(f"{path}/model.safetensors") for path in (together["model"], result.adapter_path))
    assert set(one) == set(other)
    for name, weight in other.items():
        assert float((one[name].float() - weight.float()).norm()) <= 3e-3 * float(weight.float().norm()), name


@pytest.mark.slow
def test_memory_that_runs_out_in_one_process_halves_all(tmp_path, launched):
    halved = launched[0]["halved"]
    assert halved["micro"] == 4
    assert halved["events"].count("OOM_RECOVERED") == 1
    assert_one_trajectory("sft halved", halved["curves"], launched[0]["sft"]["curves"])


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(launched):
    resumed = launched[0]["resumed"]
    assert resumed["cut"] == 2
    whole, again = (load_file(f"{resumed[name]}/adapter_model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


@pytest.mark.slow
def test_a_process_without_a_unit_adds_nothing(tmp_path, launched):
    alone, _ = trajectory("orpo", tmp_path, steps=2, batch_size=1, heldout_ratio=0.1)
    assert_one_trajectory("orpo one unit a step", launched[0]["narrow"]["curves"], alone)


@pytest.mark.slow
def test_one_process_records(launched):
    _, folder = launched
    store = RunStore(folder)
    runs = store.list()
    assert len(runs) == len(METHODS) + 6
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(run.run_id for run in runs)
    left = launched[0]["left"]
    assert {run.run_id for run in runs if run.status != "completed"} == {left}
    for run in runs:
        codes = [event.code for event in store.events(run.run_id)]
        assert codes.count("JOB_PREPARING") == 1
        again = "CONTROL_TAKEN" in codes and run.run_id != left
        assert codes.count("RUN_FINISHED") == 1 + again
        assert codes.count("CHECKPOINT_SAVED") <= STEPS


@pytest.mark.slow
def test_one_process_goes_on_with_what_two_left_and_says_so(launched):
    told, (together, folder) = [], launched
    resumed = Trainer("tiny", output=folder, tell=told.append).resume(together["left"])
    assert any("2 process(es), the next by 1" in line for line in told)
    assert_one_trajectory(
        "sft 2 processes, then 1", curves_of(folder, resumed.run_id), together["sft"]["curves"]
    )


@pytest.fixture
def second_of_two(monkeypatch):
    """This process as the second one of two, and the store in which the first speaks."""
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in zip(VARIABLES, ("1", "1", "2", "2", "127.0.0.1", str(store.port)), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setattr(processes, "_meeting", None)
    monkeypatch.setattr(processes, "GRACE", 0.0)
    return PrefixStore("bp_core", store)


def test_a_process_whose_first_one_opens_no_run_ends(tmp_path, second_of_two):
    from bp_core import BpError

    second_of_two.set("run-0", json.dumps({"failed": True}))
    provoke(
        BpError,
        "RUNTIME_PROCESS_LOST",
        "could not open a run",
        lambda: Trainer("tiny", output=tmp_path, tell=quiet).train(stones(8), steps=1),
    )
    assert not any(tmp_path.iterdir())


def test_a_place_is_taken_only_from_a_whole_launch(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert launch() == Launch()
    for name, value in zip(VARIABLES, ("1", "1", "2", "2", "h", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert launch() == Launch(1, 1, 2, 2)
    for name, value in (("RANK", "x"), ("WORLD_SIZE", "1"), ("RANK", "7")):
        with monkeypatch.context() as scope:
            scope.setenv(name, value)
            assert launch() == Launch()
    monkeypatch.delenv("MASTER_PORT")  # a scheduler's RANK alone is no launch
    assert launch() == Launch()
