"""Trackers: the local file always, others by name, each isolated; the packages that are installed are used for real."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
from bp_core.errors import CODES, BpError
from bp_core.runs import trackers
from bp_core.runs.trackers import LocalFile, Trackers, check, read_metrics

RUN = "20261121-073455-a1b2c3"


def need(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def test_the_local_file_is_always_written_and_readable_at_once(tmp_path):
    t = Trackers((), RUN, tmp_path)
    t.log(1, {"loss": 2.0, "gpu/power": 150})
    t.log(2, {"loss": math.nan})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["loss"]) for r in rows] == [(1, 2.0), (2, None)]
    assert rows[0]["gpu/power"] == 150.0
    assert rows[0]["time"] > 1.7e9
    t.finish("completed", {"loss": 1.0})
    t.log(3, {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2, "an ended run takes no more"


def test_a_resumed_file_drops_what_is_done_again_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = LocalFile(path)
    for step in range(1, 8):
        first.log(step, {"loss": float(step)})
    first.finish("completed", {})
    with path.open("a") as file:
        file.write('{"step": 8, "lo')
    second = LocalFile(path, resume_step=5)
    second.log(6, {"loss": 60.0})
    second.finish("completed", {})
    assert [r["loss"] for r in map(json.loads, path.read_text().splitlines())] == [1, 2, 3, 4, 5, 60]
    LocalFile(path).finish("completed", {})
    assert path.read_text() == "", "a run without a checkpoint is done again from its first step"


def test_names():
    assert check(()) == check(("none", "")) == []
    assert check(("TensorBoard", "tensorboard")) == ["tensorboard"]
    for name, part in (("tensorbord", "did you mean tensorboard"), ("auto", "opt-in"), ("x", "known are")):
        with pytest.raises(BpError) as caught:
            check((name,))
        assert caught.value.code == "INPUT_TRACKER_UNKNOWN"
        assert caught.value.code in CODES
        assert part in caught.value.message


def test_a_named_tracker_that_is_missing_is_told_with_the_install_command(tmp_path):
    missing = [n for n in trackers.NAMED if importlib.util.find_spec(n) is None]
    if not missing:
        pytest.skip("every tracker is installed here")
    with pytest.raises(BpError) as caught:
        Trackers((missing[0],), RUN, tmp_path)
    assert caught.value.code == "DEP_TRACKER_MISSING"
    assert caught.value.hint == f"pip install 'bp-core[{missing[0]}]'"
    assert caught.value.exit_code == 1
    assert not (tmp_path / "metrics.jsonl").exists(), "refused before anything is written"


def test_a_tracker_that_breaks_is_told_once_and_the_others_go_on(tmp_path, request):
    class Broken:
        def __init__(self, *_):
            print("noise")

        def log(self, step, values):
            if step == 2:
                raise ConnectionError("service is down\nsecond line")

        def finish(self, status, result):
            raise AssertionError("a dropped tracker is not asked again")

    trackers.NAMED["tensorboard"], real = Broken, trackers.NAMED["tensorboard"]
    request.addfinalizer(lambda: trackers.NAMED.update(tensorboard=real))
    events = []
    t = Trackers(
        ("tensorboard",), RUN, tmp_path, on_event=lambda code, message, **d: events.append((code, message, d))
    )
    for step in range(1, 5):
        t.log(step, {"loss": 1.0})
    t.finish("completed")
    assert events == [
        (
            "TRACKER_FAILED",
            "tensorboard is left out from now on: ConnectionError: service is down",
            {"tracker": "tensorboard"},
        )
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_what_a_tracker_prints_stays_off_stdout(tmp_path):
    code = """
import sys
from pathlib import Path
from bp_core.runs import trackers
class Loud:
    def __init__(self, *_): print("loud")
    def log(self, *_): print("loud")
    def finish(self, *_): print("loud")
trackers.NAMED["tensorboard"] = Loud
t = trackers.Trackers(("tensorboard",), "r", Path(sys.argv[1])); t.log(1, {"loss": 1.0}); t.finish("completed")
print("data")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "data\n"


def test_tensorboard_event_files_are_read_back(tmp_path):
    need("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def points():
        found = {}
        for file in sorted((tmp_path / "tensorboard").iterdir()):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    found[value.tag, event.step] = (
                        value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                    )
        return found

    t = Trackers(("tensorboard",), RUN, tmp_path, {"hub_token": "x"})
    assert t.names == ["metrics.jsonl", "tensorboard"]
    for step in (1, 2, 3):
        t.log(step, {"loss": step / 2})
    t.finish("completed", {"loss": 1.5})
    again = Trackers(("tensorboard",), RUN, tmp_path, resume_step=2)
    again.log(3, {"loss": 9.0})
    again.finish("completed")
    assert points() == {("loss", 1): 0.5, ("loss", 2): 1.0, ("loss", 3): 9.0}


def test_wandb_offline(tmp_path):
    need("wandb")
    code = """
import sys
from pathlib import Path
from bp_core.runs.trackers import Trackers
t = Trackers(("wandb",), "20261121-073455-a1b2c3", Path(sys.argv[1]), {"lora": {"rank": 4}}, on_event=print)
t.log(1, {"loss": 2.0}); t.finish("completed", {"loss": 2.0})
"""
    env = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        timeout=120,
    )
    assert done.stdout == ""
    assert list(tmp_path.glob(f"wandb/offline-run-*{RUN}*"))


def test_mlflow_local_and_resumed(tmp_path):
    need("mlflow")
    from mlflow.tracking import MlflowClient

    folder = tmp_path / RUN
    folder.mkdir()
    for resume in (None, 1):
        t = Trackers(
            ("mlflow",), RUN, folder, {"lora": {"rank": 4}, "hub_token": "secret"}, resume_step=resume
        )
        t.log(1 if resume is None else 2, {"loss": 2.0})
        assert t.names == ["metrics.jsonl", "mlflow"]
        t.finish("completed")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("backprop").experiment_id])
    assert (run.info.run_name, run.info.status) == (RUN, "FINISHED")
    assert run.data.params == {"lora.rank": "4", "hub_token": "***"}
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]


def test_trackio_local(tmp_path):
    need("trackio")
    code = """
import sys
from pathlib import Path
from bp_core.runs.trackers import Trackers
t = Trackers(("trackio",), "20261121-073455-a1b2c3", Path(sys.argv[1]), {"lora": {"rank": 4}}, on_event=print)
t.log(1, {"loss": 2.0}); print(t.names, file=sys.stderr); t.finish("completed")
"""
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=env,
        timeout=120,
    )
    assert done.stdout == ""
    assert "trackio" in done.stderr
    assert list((tmp_path / "trackio").glob("backprop*"))
