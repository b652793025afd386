"""A job has its row before its work begins: queued, preparing, running, and honest about each end."""

from __future__ import annotations

import json
import sqlite3
import time

import pytest
from bp_core.errors import BpError
from bp_core.runs import schema
from bp_core.runs.diff import diff
from bp_core.runs.rebuild import rebuild
from bp_core.runs.replay import replay
from bp_core.runs.report import write_report
from bp_core.runs.store import RunStore, export_jsonl

FACTS = {
    "config": {"training": {"steps": 4}, "model": {"model": "tiny"}},
    "dataset": {"accepted": 8},
    "base_model": {"ref": "tiny"},
    "environment": {"python": "3.11"},
}


def codes(store, run_id):
    return [e.code for e in store.events(run_id)]


def refused(code, call):
    with pytest.raises(BpError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.hint
    return caught.value


def test_a_row_stands_from_the_first_moment_and_is_described_when_more_is_known(tmp_path):
    store = RunStore(tmp_path)
    with store.create("train", status="queued", config={"model": {"model": "tiny"}}, run_id="mine") as run:
        waiting = store.get("mine")
        assert (waiting.status, waiting.started_at, waiting.progress) == ("queued", None, {})
        run.prepare()
        assert store.get("mine").status == "preparing"
        run.describe(**FACTS, sources={"training.steps": "decided"}, seed=7)
        assert store.get("mine").config == FACTS["config"]
        manifest = json.loads((run.path / "manifest.json").read_text())
        assert {k: manifest[k] for k in FACTS} == FACTS
        assert (manifest["seed"], manifest["sources"]) == (7, {"training.steps": "decided"})
        before = time.time()
        run.begin(total=4)
        begun = store.get("mine")
        assert begun.status == "running"
        assert begun.started_at >= before - 1 >= begun.created_at - 1
        run.metric(3, loss=1.0)
        run.flush()
        assert store.get("mine").progress == {"done": 3, "total": 4, "unit": "steps"}
        run.finish("stopped")
    assert codes(store, "mine") == ["JOB_QUEUED", "JOB_PREPARING", "RUN_STARTED", "RUN_FINISHED"]
    assert store.events("mine")[2].details == {"run_id": "mine", "seed": 7, "parent": None}
    assert store.get("mine").to_dict()["progress"]["done"] == 3


def test_progress_counts_what_the_job_counts(tmp_path):
    store = RunStore(tmp_path)
    with store.create("export", status="preparing") as run:
        run.begin(total=100, unit="bytes")
        run.progress(40, 120)
        run.flush()
        assert store.get(run.run_id).progress == {"done": 40, "total": 120, "unit": "bytes"}
    with pytest.raises(ValueError, match="cannot become"), store.create("export") as run:
        run.begin()
    with pytest.raises(TypeError, match="conifg"), store.create("export") as run:
        run.describe(conifg={})


def test_a_failure_of_the_preparation_ends_the_row_with_code_and_cause(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(BpError), store.create("train", status="preparing") as run:
        raise BpError("INPUT_DATASET_EMPTY", "no row can be used", "look")
    record = store.get(run.run_id)
    assert (record.status, record.started_at) == ("failed", None)
    assert record.result["error_code"] == "INPUT_DATASET_EMPTY"
    assert record.result["error"].endswith("no row can be used")
    assert codes(store, run.run_id) == ["JOB_PREPARING", "RUN_FAILED", "RUN_FINISHED"]


@pytest.mark.parametrize("status", ["queued", "preparing"])
def test_a_job_whose_process_died_before_it_began_is_crashed(tmp_path, status):
    store = RunStore(tmp_path)
    run = store.create("train", status=status, run_id="gone")
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE runs SET pid_started=1")
    assert store.get("gone").status == "crashed"
    assert [r.run_id for r in store.list(status="crashed")] == ["gone"]
    assert store.list(status=status) == []
    error = refused("STATE_TOKENS_MISSING", lambda: store.resumable("gone"))
    assert error.hint.startswith("backprop replay gone")
    run.finish("failed")


@pytest.mark.parametrize("status", ["queued", "preparing"])
def test_a_waiting_job_can_be_stopped_and_nothing_else(tmp_path, status):
    store = RunStore(tmp_path)
    with pytest.raises(BpError) as caught, store.create("train", status=status, run_id="it") as run:
        assert refused("STATE_RUN_NOT_ACTIVE", lambda: store.request("it", "pause")).hint.startswith(
            "backprop stop it"
        )
        store.request("it", "stop")
        if status == "queued":
            run.prepare()
        run.begin(total=3)
    assert (caught.value.code, caught.value.exit_code) == ("STATE_JOB_CANCELLED", 130)
    record = store.get("it")
    assert (record.status, record.started_at) == ("stopped", None)
    assert record.result["error_code"] == "STATE_JOB_CANCELLED"
    assert "RUN_STARTED" not in codes(store, "it")


def test_only_a_training_is_resumed(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.create("export", run_id="e"):
        raise ZeroDivisionError
    refused("INPUT_RUN_KIND", lambda: store.resumable("e"))
    refused("INPUT_RUN_KIND", lambda: replay("e", output=tmp_path))
    refused("INPUT_RUN_KIND", lambda: replay(tmp_path / "e", output=tmp_path))


def test_readers_know_jobs_that_did_not_begin(tmp_path):
    store = RunStore(tmp_path)
    with store.create("train", **FACTS, run_id="whole") as run:
        run.metric(1, loss=1.0)
    with pytest.raises(BpError), store.create("train", status="queued", run_id="bare"):
        raise BpError("INPUT_DATASET_EMPTY", "no row", "look")
    waiting = store.create("train", status="queued", run_id="waits")
    assert {r.run_id: r.status for r in store.list()} == {
        "whole": "completed",
        "bare": "failed",
        "waits": "queued",
    }
    assert diff(store, "whole", "bare").outcome["status"] == ("completed", "failed")
    assert replay("bare", output=tmp_path).parent == "bare"
    assert "INPUT_DATASET_EMPTY" in write_report(store, "bare").read_text()
    lines = [json.loads(line) for line in export_jsonl(store)]
    assert {line["run_id"]: line["status"] for line in lines}["waits"] == "queued"
    assert lines[-1]["started_at"] is not None
    waiting.finish("interrupted")
    done = rebuild(tmp_path)
    assert (sorted(done.runs), done.passed_over) == (["bare", "waits", "whole"], ())
    assert store.get("bare").started_at is None
    assert (store.get("bare").status, store.get("waits").status) == ("failed", "interrupted")
    assert store.get("whole").started_at == pytest.approx(run._started_at, abs=0.01)


def test_a_store_that_is_replaced_under_a_waiting_job_knows_it_again(tmp_path):
    store = RunStore(tmp_path)
    run = store.create("train", status="queued", run_id="it")
    for file in tmp_path.glob("runs.db*"):
        file.unlink()
    RunStore(tmp_path).create("eval").finish()
    run._close_db()
    assert run.flush()
    assert store.get("it").status == "queued"
    run.prepare()
    run.begin(total=1)
    assert store.get("it").started_at is not None
    run.finish()


def test_a_store_of_version_1_is_migrated_with_all_that_it_holds(tmp_path):
    """The file is made by the statements of version 1, which stay as they were."""
    folder = tmp_path / "out"
    folder.mkdir()
    db = sqlite3.connect(folder / "runs.db")
    for statement in schema.MIGRATIONS[0]:
        db.execute(statement)
    db.execute("PRAGMA user_version=1")
    row = (
        "train",
        "label",
        "completed",
        100.0,
        200.0,
        160.0,
        5,
        3,
        None,
        "host",
        "",
        1,
        2.0,
        '{"training": {"steps": 9}}',
        *["{}"] * 4,
        '{"loss": 1}',
    )
    for run_id in ("20250101-a", "20250101-b"):
        db.execute(f"INSERT INTO runs VALUES ({','.join('?' * 20)})", (run_id, *row))
        db.execute("INSERT INTO metrics VALUES (?, 'loss', 5, 0.5, 150)", (run_id,))
        db.execute(
            "INSERT INTO events(run_id, time, step, code, message, details) VALUES (?, 101, 0, 'RUN_STARTED', 'x', '{}')",
            (run_id,),
        )
        db.execute("INSERT INTO artifacts VALUES (?, 'adapter', 'adapter', 160, '{}')", (run_id,))
        db.execute("INSERT INTO control(run_id, action, requested_at) VALUES (?, 'stop', 150)", (run_id,))
    db.commit()
    db.close()

    store = RunStore(folder)
    for run_id in ("20250101-a", "20250101-b"):
        record = store.get(run_id)
        assert (record.status, record.step, record.name, record.result) == (
            "completed",
            5,
            "label",
            {"loss": 1},
        )
        assert (record.created_at, record.started_at, record.seconds) == (100.0, 100.0, 60.0)
        assert record.progress == {"done": 5, "total": 9, "unit": "steps"}
        assert store.metrics(run_id, "loss") == [(5, 0.5)]
        assert [a.kind for a in store.artifacts(run_id)] == ["adapter"]
        first, told = store.events(run_id)
        assert (first.code, told.code) == ("RUN_STARTED", "STORE_MIGRATED")
        assert "from schema version 1 to 2" in told.message
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION == 2
        assert db.execute("SELECT count(*) FROM control").fetchone()[0] == 2
    store.list()
    assert len(store.events("20250101-a")) == 2, "once"
