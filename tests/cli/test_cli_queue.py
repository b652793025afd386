"""Train and export as jobs of the same table, one behind the other over two output folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bp_cli.main import main
from bp_core.runs.lease import FOLDER, Lease, holder
from bp_core.runs.store import RunStore

ADAPTER = sorted((Path(__file__).parents[1] / "corpus").glob("adapter-*"))[-1]
# a suite that runs in the background may have been started with SIGINT ignored, which children inherit
BACKPROP = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from bp_cli.main import main; sys.exit(main())",
]
HOLDER = """
import sys, time
from pathlib import Path
from bp_core.runs.jobs import record_job
with record_job(Path("held"), "eval", card="cpu", tell=print, run_id="holder") as run:
    run.begin()
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("d.jsonl").write_text(
        "".join(json.dumps({"prompt": f"p{i}?", "completion": f"a{i}."}) + "\n" for i in range(8))
    )
    return tmp_path


@pytest.fixture
def exported(here):
    """A run of the folder `two` whose adapter can be exported."""
    with RunStore("two").create("train", run_id="made") as run:
        shutil.copytree(ADAPTER, run.path / "adapter")
    return run.path / "adapter"


@pytest.fixture
def started():
    children = []

    def start(*line):
        children.append(
            subprocess.Popen(
                [*line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return children[-1]

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


def until(check, child=None, seconds=240.0):
    """Wait for another process; the limit is for a machine under load."""
    end = time.monotonic() + seconds
    while not check():
        assert child is None or child.poll() is None, child.communicate()[0]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def status(output, run_id):
    store = RunStore(output)
    return store.get(run_id).status if any(r.run_id == run_id for r in store.list()) else None


def tickets():
    return len(list(Path(os.environ[FOLDER]).glob("*/*.ticket")))


TRAIN = ["train", "-m", "tiny", "-d", "d.jsonl", "--backend", "cpu", "--preview", "0", "--queue"]


def test_a_train_and_an_export_queue_over_two_folders_and_the_killed_make_way(started, exported):
    first = started(sys.executable, "-c", HOLDER)
    until(lambda: status("held", "holder") == "running", first)
    train = started(*BACKPROP, *TRAIN, "--steps", "100000", "--output", "one", "--run-id", "t")
    until(lambda: status("one", "t") == "queued" and tickets() == 1, train)
    export = started(
        *BACKPROP, "export", str(exported), "-f", "lora", "-o", "out", "--queue", "--run-id", "e"
    )
    until(lambda: status("two", "e") == "queued" and tickets() == 2, export)
    assert [e.code for e in RunStore("one").events("t")] == ["JOB_QUEUED"]

    first.kill()
    until(lambda: status("one", "t") == "running", train)
    assert (status("held", "holder"), status("two", "e")) == ("crashed", "queued")
    assert (holder("cpu")["run_id"], Path(holder("cpu")["output"]).name) == ("t", "one")

    train.kill()
    until(lambda: export.poll() is not None)
    told = export.communicate()[0]
    assert export.returncode == 0, told
    assert f"run e in {Path('two/e').absolute()}" in told
    assert "cpu is busy: run holder of" in told
    assert "1 waits before this one" in told
    assert status("one", "t") == "crashed"
    record = RunStore("two").get("e")
    assert (record.status, record.kind, record.parent) == ("completed", "export", "made")
    assert record.result["format"] == "lora"
    codes = [e.code for e in RunStore("two").events("e")]
    assert codes == ["JOB_QUEUED", "JOB_PREPARING", "RUN_STARTED", "RUN_FINISHED"]
    assert [a.kind for a in RunStore("two").artifacts("made")] == ["lora"]
    assert holder("cpu") is None


STOPPED = """
import sys, threading, time
from bp_cli.main import main
from bp_core.runs.store import RunStore
store, loaded = RunStore("one"), []
def look():
    while not any(r.status == "queued" for r in store.list()):
        time.sleep(0.02)
    loaded.append(sorted({"torch", "transformers", "peft"} & set(sys.modules)))
    store.request("t", "stop")
threading.Thread(target=look).start()
code = main(sys.argv[1:])
assert loaded == [[]], loaded
sys.exit(code)
"""


def test_a_queued_job_is_light_and_a_stop_calls_it_off(started, here):
    with Lease("cpu", run_id="other", output=here / "elsewhere") as lease:
        assert lease.take()
        child = started(sys.executable, "-c", STOPPED, *TRAIN, "--output", "one", "--run-id", "t")
        told = child.communicate(timeout=240)[0]
    assert child.returncode == 130, told
    assert "STATE_JOB_CANCELLED" in told
    assert "run other of" in told
    assert "elsewhere" in told
    assert status("one", "t") == "stopped"
    assert tickets() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_queued_job_as_interrupted(started, here, number):
    with Lease("cpu", run_id="other", output=here) as lease:
        assert lease.take()
        child = started(*BACKPROP, *TRAIN, "--output", "one", "--run-id", "t")
        until(lambda: status("one", "t") == "queued" and tickets() == 1, child)
        child.send_signal(number)
        told = child.communicate(timeout=240)[0]
    assert child.returncode == 130, told
    assert status("one", "t") == "interrupted"
    assert tickets() == 0


def test_without_queue_a_busy_card_is_told_and_the_job_goes_on(capsys, here, exported):
    with Lease("cpu", run_id="other", output=here / "elsewhere") as lease:
        assert lease.take()
        assert main(["export", str(exported), "-f", "lora", "-o", "out"]) == 0
    told = capsys.readouterr().err
    assert "cpu is busy: run other of" in told
    assert "elsewhere holds it since" in told


def test_an_export_is_a_job_of_the_run_that_it_exports(capsys, exported):
    assert main(["export", "two/made", "-f", "lora", "-o", "out", "--json"]) == 0
    told = capsys.readouterr()
    (job,) = RunStore("two").list(kind="export")
    assert f"run {job.run_id} in" in told.err
    assert json.loads(told.out)["path"].endswith("out")
    assert job.config["export"]["format"] == "lora"
    assert job.progress["done"] == job.progress["total"] > 0
    assert job.started_at is not None
    assert (Path("two") / job.run_id / "run.log").is_file()
    assert main(["show-run", job.run_id, "--output", "two"]) == 0
    assert main(["list-runs", "--output", "two"]) == 0
    assert "export" in capsys.readouterr().out


def test_an_export_that_fails_is_recorded_with_code_and_cause(capsys, exported):
    (exported / "adapter_model.safetensors").write_bytes(b"x" * 100)
    code = main(["export", str(exported), "-f", "merged", "-o", "out", "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    (job,) = RunStore("two").list(kind="export")
    assert code != 0
    assert (job.status, job.result["error_code"]) == ("failed", error["code"])
    assert error["details"]["run_id"] == job.run_id


def test_an_adapter_of_no_run_is_recorded_where_train_would_write(capsys, here):
    shutil.copytree(ADAPTER, "mine")
    Path("backprop.toml").write_text('[tracking]\noutput = "jobs"\n')
    assert main(["export", "mine", "-f", "lora", "-o", "out"]) == 0
    (job,) = RunStore("jobs").list()
    assert (job.kind, job.status, job.parent) == ("export", "completed", None)


def test_what_is_no_job_is_not_recorded(capsys, exported):
    assert main(["export", str(exported), "-f", "lora", "-o", "out", "--dry-run"]) == 0
    assert main(["export", "not-there/x", "-f", "lora"]) == 1
    assert main(["export", str(exported), "-f", "lora", "--dry-run", "--queue"]) == 1
    assert main(["train", "-m", "tiny", "-d", "d.jsonl", "--dry-run", "--queue"]) == 1
    assert RunStore("two").list(kind="export") == []
    assert not Path("output").exists()


def test_a_record_that_cannot_be_written_does_not_stop_an_export(capsys, here):
    shutil.copytree(ADAPTER, "mine")
    Path("output").write_text("a file where the folder should be")
    assert main(["export", "mine", "-f", "lora", "-o", "out"]) == 0
    assert "is not recorded" in capsys.readouterr().err
    assert main(["export", "mine", "-f", "lora", "-o", "out2", "--queue"]) == 2


def test_a_training_that_fails_before_it_begins_has_a_row_that_says_why(capsys, here):
    Path("empty.jsonl").write_text('{"prompt": "", "completion": ""}\n')
    line = [
        "train",
        "-m",
        "tiny",
        "-d",
        "empty.jsonl",
        "--backend",
        "cpu",
        "--output",
        "one",
        "--run-id",
        "t",
    ]
    code = main([*line, "--json"])
    told = capsys.readouterr()
    error = json.loads(told.out)["error"]
    assert code == 1
    assert told.err.startswith("run t in one"), "told before anything else"
    record = RunStore("one").get("t")
    assert (record.status, record.started_at, record.result["error_code"]) == ("failed", None, error["code"])
    assert [e.code for e in RunStore("one").events("t")] == ["JOB_PREPARING", "RUN_FAILED", "RUN_FINISHED"]
    assert main(["resume", "t", "--output", "one"]) == 2
    assert "backprop replay t --output one" in capsys.readouterr().err
