"""The run store: what is written is read back, by every process, also after a kill, a lock or a full disk."""

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from bp_core.errors import CODES, BpError
from bp_core.runs.store import RunStore, export_jsonl

FACTS = {
    "config": {"lora": {"rank": 16}, "hub_token": "hf_" + "a" * 30},
    "sources": {"lora.rank": "flag"},
    "environment": {"python": "3.11"},
    "dataset": {"fingerprint": "abc"},
    "base_model": {"ref": "tiny", "revision": None},
    "seed": 7,
}


def until(check, seconds=20.0):
    """Wait for another process or thread; the time limit is for a machine under load."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def refused(code, call):
    with pytest.raises(BpError) as caught:
        call()
    assert caught.value.code == code
    assert code in CODES
    assert caught.value.hint
    return caught.value


def script(path, body):
    """A program of its own that has bp_core and the output directory as `store`."""
    source = "import sys, time, os\nfrom pathlib import Path\nfrom bp_core.runs.store import RunStore\n"
    path.write_text(source + "store = RunStore(Path(sys.argv[1]))\n" + textwrap.dedent(body))
    return path


def test_a_run_is_read_back_whole(tmp_path):
    store = RunStore(tmp_path)
    with store.create(**FACTS, name="first") as run:
        run.metric(1, loss=2.5, **{"rewards/margins": 0.1})
        run.metric(2, loss=float("nan"), grad_norm=float("inf"))
        run.metric(2, learning_rate=1e-4)
        run.event("CHECKPOINT_SAVED", "step 2", size=10)
        (run.path / "adapter").mkdir()
        run.artifact("adapter", run.path / "adapter", rank=16)
        run.artifact("gguf", tmp_path / "elsewhere.gguf")
        run.finish("completed", {"loss": 1.0})
    record = store.get(run.run_id[:-2])
    assert record.run_id == run.run_id
    assert (record.status, record.step, record.seed, record.name) == ("completed", 2, 7, "first")
    assert record.config == {"lora": {"rank": 16}, "hub_token": "***"}
    assert record.sources == FACTS["sources"]
    assert record.result == {"loss": 1.0}
    assert store.metrics(run.run_id, "rewards/margins") == [(1, 0.1)]
    (_, first), (_, second) = store.metrics(run.run_id, "loss")
    assert first == 2.5
    assert math.isnan(second)
    assert store.metrics(run.run_id, "loss", after=1)[0][0] == 2
    assert store.latest(run.run_id)["grad_norm"] == (2, math.inf)
    assert store.metric_names(run.run_id) == ["grad_norm", "learning_rate", "loss", "rewards/margins"]
    assert [e.code for e in store.events(run.run_id)] == ["RUN_STARTED", "CHECKPOINT_SAVED", "RUN_FINISHED"]
    adapter, gguf = store.artifacts(run.run_id)
    assert adapter.path == tmp_path / run.run_id / "adapter"
    assert adapter.meta == {"rank": 16}
    assert gguf.path == tmp_path / "elsewhere.gguf"
    assert list(tmp_path.glob("runs.db-*")) == [], "a closed store is one file"


def test_the_directory_tells_the_same_as_the_row(tmp_path):
    store = RunStore(tmp_path)
    run = store.create(**FACTS)
    run.finish("stopped", {"seconds": float("nan")})
    manifest = json.loads((run.path / "manifest.json").read_text())
    result = json.loads((run.path / "result.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["dataset"] == FACTS["dataset"] == store.get(run.run_id).dataset
    assert manifest["config"]["hub_token"] == "***"
    assert (result["status"], result["result"]) == ("stopped", {"seconds": None})
    assert "hf_" not in (tmp_path / "runs.db").read_bytes().decode("latin-1")


def test_a_moved_output_directory_still_finds_its_artifacts(tmp_path):
    store = RunStore(tmp_path / "a")
    with store.create() as run:
        run.artifact("report", run.path / "report.html")
    (tmp_path / "a").rename(tmp_path / "b")
    (artifact,) = RunStore(tmp_path / "b").artifacts(run.run_id)
    assert artifact.path == tmp_path / "b" / run.run_id / "report.html"


def test_reading_makes_nothing(tmp_path):
    store = RunStore(tmp_path / "none")
    assert store.list() == []
    refused("INPUT_RUN_NOT_FOUND", lambda: store.get("2026"))
    assert not (tmp_path / "none").exists()


def test_prefixes(tmp_path):
    store = RunStore(tmp_path)
    ids = []
    for _ in range(2):
        with store.create() as run:
            ids.append(run.run_id)
    error = refused("INPUT_RUN_AMBIGUOUS", lambda: store.get("2"))
    assert set(error.details["run_ids"]) == set(ids)
    refused("INPUT_RUN_NOT_FOUND", lambda: store.get("nothing"))
    refused("INPUT_RUN_NOT_FOUND", lambda: store.get(""))
    assert [r.run_id for r in store.list()] == ids[::-1], "newest first"
    assert [r.run_id for r in store.list(limit=1)] == ids[1:]
    assert store.list(status="failed") == []
    assert store.list(kind="eval") == []


def test_the_end_of_a_block_ends_the_run(tmp_path):
    store = RunStore(tmp_path)
    with store.create() as good:
        pass
    with pytest.raises(ZeroDivisionError), store.create() as bad:
        1 / 0  # noqa: B018
    with pytest.raises(KeyboardInterrupt), store.create() as cut:
        raise KeyboardInterrupt
    assert [store.get(r.run_id).status for r in (good, bad, cut)] == ["completed", "failed", "interrupted"]
    assert store.get(bad.run_id).result["error_type"] == "ZeroDivisionError"
    bad.finish("completed")
    assert store.get(bad.run_id).status == "failed", "an ended run stays as it ended"
    with pytest.raises(ValueError, match="has ended"):
        bad.metric(1, loss=1.0)
    store.add_artifact(bad.run_id, "gguf", "x.gguf")
    assert store.artifacts(bad.run_id)[0].kind == "gguf"


def test_wrong_arguments(tmp_path):
    with RunStore(tmp_path).create() as run:
        with pytest.raises(TypeError):
            run.metric(1, loss="1.0")
        with pytest.raises(ValueError):
            run.event("lower case", "")
        with pytest.raises(ValueError):
            run.finish("running")
        with pytest.raises(ValueError):
            RunStore(tmp_path).request(run.run_id, "explode")
        run.event("ODD_NAME", "caf\udce9", path=Path("caf\udce9"))
    assert RunStore(tmp_path).events(run.run_id)[-2].message == "caf\\udce9"


def test_control_is_taken_once_and_the_newest_wins(tmp_path):
    store = RunStore(tmp_path)
    with store.create() as run:
        assert run.control() is None
        store.request(run.run_id[:12], "pause")
        assert run.control() == "pause"
        assert run.control() is None
        run.paused()
        run.flush()
        assert store.get(run.run_id).status == "paused"
        store.request(run.run_id, "resume")
        store.request(run.run_id, "stop-and-save")
        assert run.control() == "stop-and-save"
        assert run.control() is None
        store.request(run.run_id, "stop")
        run.finish("stopped")
    refused("STATE_RUN_NOT_ACTIVE", lambda: store.request(run.run_id, "pause"))
    with store.open(run.run_id) as again:
        assert again.control() is None, "a request to the part before is not for the resumed run"


def test_resume_forgets_the_steps_that_are_done_again(tmp_path):
    store = RunStore(tmp_path)
    with store.create() as run:
        for step in range(1, 11):
            run.metric(step, loss=float(step))
        run.finish("interrupted")
    with store.open(run.run_id, step=6) as run:
        assert run.step == 6
        assert store.get(run.run_id).status == "running"
        assert not (run.path / "result.json").exists()
        run.metric(7, loss=70.0)
    assert [v for _, v in store.metrics(run.run_id, "loss")] == [1, 2, 3, 4, 5, 6, 70]
    assert store.get(run.run_id).status == "completed"
    resumed = next(e for e in store.events(run.run_id) if e.code == "RUN_RESUMED")
    assert resumed.details == {"previous_status": "interrupted", "metrics_dropped": 4}


KILLED = """
run = store.create(seed=1)
print(run.run_id, flush=True)
step = 0
while True:
    step += 1
    run.metric(step, loss=1.0 / step, grad_norm=1.0)
    if step % 50 == 0:
        run.event("CHECKPOINT_SAVED", "x" * 500)
        run.flush()
        print(step, flush=True)
"""


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_in_the_middle_of_writing_leaves_a_whole_store(tmp_path, moment):
    process = subprocess.Popen(
        [sys.executable, str(script(tmp_path / "killed.py", KILLED)), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    run_id, committed = process.stdout.readline().strip(), 0
    for _ in range(1 + 3 * moment):
        committed = int(process.stdout.readline())
    store = RunStore(tmp_path)
    refused("STATE_RUN_ACTIVE", lambda: store.open(run_id))
    assert store.get(run_id).status == "running"
    time.sleep(0.003 * moment)
    process.kill()
    process.wait()
    process.stdout.close()
    record = store.get(run_id)
    assert record.status == "crashed"
    assert [r.run_id for r in store.list(status="crashed")] == [run_id]
    steps = [s for s, _ in store.metrics(run_id, "loss")]
    assert len(steps) >= committed, "what was committed before the kill is there"
    assert steps == list(range(1, len(steps) + 1)), "no hole"
    refused("STATE_RUN_NOT_ACTIVE", lambda: store.request(run_id, "stop"))
    db = sqlite3.connect(tmp_path / "runs.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    with store.open(run_id, step=10) as run:
        assert store.metrics(run_id, "loss")[-1][0] == 10
    assert store.get(run.run_id).status == "completed"


def test_two_processes_write_the_same_store(tmp_path):
    body = """
    with store.create(seed=int(sys.argv[2])) as run:
        for step in range(1, 301):
            run.metric(step, loss=float(sys.argv[2]))
            if step % 20 == 0:
                run.event("TICK", str(step))
                run.flush()
    """
    path = script(tmp_path / "writer.py", body)
    writers = [subprocess.Popen([sys.executable, str(path), str(tmp_path), str(i)]) for i in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    store = RunStore(tmp_path)
    records = store.list()
    assert sorted(r.seed for r in records) == [0, 1, 2]
    for record in records:
        assert record.status == "completed"
        assert store.metrics(record.run_id, "loss") == [(s, float(record.seed)) for s in range(1, 301)]
        assert len([e for e in store.events(record.run_id) if e.code == "TICK"]) == 15


def test_threads_share_one_run(tmp_path):
    store = RunStore(tmp_path)
    with store.create() as run:

        def work(name):
            for step in range(200):
                run.metric(step, **{name: 1.0})
                run.control()

        threads = [threading.Thread(target=work, args=(f"m{i}",)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert {n: len(store.metrics(run.run_id, n)) for n in store.metric_names(run.run_id)} == dict.fromkeys(
        ("m0", "m1", "m2", "m3"), 200
    )


def test_a_locked_store_never_stops_the_training(tmp_path, caplog):
    caplog.set_level("WARNING")
    store = RunStore(tmp_path, timeout=0.2)
    run = store.create()
    run.flush()
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    for step in range(1, 1001):
        run.metric(step, loss=1.0)
        run.heartbeat(step)
        run.control()
    assert time.monotonic() - start < 5.0, "a step does not wait for the lock"
    assert run.flush() is False
    assert run.problem.code == "STATE_RUNS_LOCKED"
    assert run.problem.retryable
    refused("STATE_RUNS_LOCKED", lambda: store.request(run.run_id, "stop"))
    other.execute("ROLLBACK")
    other.close()
    run.finish()
    assert len(store.metrics(run.run_id, "loss")) == 1000
    assert run.problem is None
    assert run.dropped == 0
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 2, "once when it fails, once when it works again"
    assert "another process holds" in told[0]


def test_a_lock_past_the_limit_is_told_at_the_end_and_files_are_whole(tmp_path):
    store = RunStore(tmp_path)
    run = store.create()
    run.flush()
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    refused("STATE_RUNS_LOCKED", lambda: run.finish("completed", {"loss": 1.0}, timeout=0.3))
    assert json.loads((run.path / "result.json").read_text())["status"] == "completed"
    other.execute("ROLLBACK")
    other.close()


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_never_stops_the_training_and_loses_nothing_once_there_is_room(tmp_path):
    body = """
    import resource, signal
    from bp_core.errors import BpError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = store.create()
    run.flush()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limit[1]))
    for step in range(1, 3001):
        run.metric(step, loss=1.0, grad_norm=2.0, learning_rate=3.0)
    assert run.flush() is False
    print(run.problem.code, flush=True)
    try:
        store.create()
    except BpError as error:
        print(error.code, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    run.finish("completed")
    print(len(store.metrics(run.run_id, "loss")), len(list(Path(sys.argv[1]).glob("2*"))))
    """
    done = subprocess.run(
        [sys.executable, str(script(tmp_path / "full.py", body)), str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    flushed, *created, count = done.stdout.split("\n")[:-1]
    assert flushed in ("RUNTIME_DISK_FULL", "STATE_RUNS_UNWRITABLE")
    assert set(created) <= {"RUNTIME_DISK_FULL", "STATE_RUNS_UNWRITABLE"}
    assert count.startswith("3000 ")


def test_a_damaged_store_is_named_and_refused(tmp_path):
    (tmp_path / "runs.db").write_bytes(b"this is no database" * 500)
    store = RunStore(tmp_path)
    error = refused("STATE_RUNS_CORRUPT", store.list)
    assert str(tmp_path) in error.hint
    refused("STATE_RUNS_CORRUPT", lambda: store.create())
    assert [p.name for p in tmp_path.iterdir()] == ["runs.db"], "a refused run leaves no directory"


def test_a_store_from_the_future_is_refused_untouched(tmp_path):
    with RunStore(tmp_path).create():
        pass
    db = sqlite3.connect(tmp_path / "runs.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    error = refused("STATE_RUNS_TOO_NEW", RunStore(tmp_path).list)
    assert "99" in error.message


def test_an_unwritable_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    refused("STATE_RUNS_UNWRITABLE", lambda: RunStore(tmp_path / "file" / "output").create())


def test_a_store_that_vanishes_under_a_run_is_made_again(tmp_path):
    store = RunStore(tmp_path)
    run = store.create(seed=3)
    run.metric(1, loss=1.0)
    run.flush()
    run._close_db()
    for path in tmp_path.glob("runs.db*"):
        path.unlink()
    run.metric(2, loss=2.0)
    run.finish("completed")
    assert store.get(run.run_id).seed == 3
    assert store.metrics(run.run_id, "loss") == [(2, 2.0)]


def test_the_heart_beats_while_nothing_is_recorded(tmp_path, request):
    from bp_core.runs import writer as run_writer

    every = run_writer.FLUSH_EVERY, run_writer.HEARTBEAT_EVERY
    run_writer.FLUSH_EVERY, run_writer.HEARTBEAT_EVERY = 0.02, 0.05
    request.addfinalizer(lambda: run_writer.__dict__.update(FLUSH_EVERY=every[0], HEARTBEAT_EVERY=every[1]))
    store = RunStore(tmp_path)
    with store.create() as run:
        run.flush()
        first = store.get(run.run_id).heartbeat_at
        run.heartbeat(41)
        until(lambda: store.get(run.run_id).heartbeat_at > first and store.get(run.run_id).step == 41)


def test_an_event_from_a_signal_handler_does_not_lock_up(tmp_path):
    if not hasattr(signal, "setitimer"):
        pytest.skip("interval timers are POSIX")
    store = RunStore(tmp_path)
    with store.create() as run:
        previous = signal.signal(signal.SIGALRM, lambda *_: run.event("SIGNAL", "in the middle"))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for step in range(3000):
                run.metric(step, loss=1.0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    assert len(store.metrics(run.run_id, "loss")) == 3000


def test_export_is_one_json_object_a_line(tmp_path):
    store = RunStore(tmp_path)
    for status in ("completed", "failed"):
        run = store.create(**FACTS)
        run.metric(1, loss=float("nan"))
        run.metric(2, loss=0.5)
        run.finish(status)
    lines = [json.loads(line) for line in export_jsonl(store)]
    assert [x["status"] for x in lines] == ["failed", "completed"]
    assert lines[0]["metrics"] == {"loss": [[1, None], [2, 0.5]]}
    assert lines[0]["schema_version"] == 1
    assert lines[0]["created_at"].endswith("Z")
    assert [json.loads(x)["status"] for x in export_jsonl(store, status="failed")] == ["failed"]
    assert "metrics" not in json.loads(next(export_jsonl(store, run_ids=[run.run_id], metrics=False)))


def test_a_reader_needs_no_torch():
    code = "import sys, bp_core.runs.store, bp_core.runs.writer; print([m for m in ('torch','transformers','click','pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_latest_is_the_newest_run_however_it_ended(tmp_path):
    store = RunStore(tmp_path)
    with pytest.raises(BpError) as caught:
        store.get("latest")
    assert caught.value.code == "INPUT_RUN_NOT_FOUND"
    store.create(run_id="a").finish("completed", {})
    store.create(run_id="b").finish("failed", {})
    assert store.get("latest").run_id == "b"
    with pytest.raises(BpError) as caught:
        store.create(run_id="latest")
    assert caught.value.code == "CONFIG_INVALID_SETTING"


def test_the_latest_training_is_no_export_and_of_a_session_the_session(tmp_path):
    store = RunStore(tmp_path)
    store.create("export", run_id="only").finish("completed", {})
    with pytest.raises(BpError) as caught:
        store.trained("latest")
    assert caught.value.code == "INPUT_RUN_NOT_FOUND"
    store.create("train", run_id="one").finish("completed", {})
    store.create("train", run_id="again", parent="one").finish("failed", {})
    assert store.trained("latest").run_id == "again"
    store.create("multi-run", run_id="weeks").finish("completed", {})
    store.create("train", run_id="weeks-r1", parent="weeks").finish("completed", {})
    store.create("eval", run_id="judged", parent="weeks").finish("completed", {})
    assert store.trained("latest").run_id == "weeks"
    assert store.get("latest").run_id == "judged"
    assert store.trained("weeks-r1").run_id == "weeks-r1"


def test_a_whole_id_is_found_among_many_that_begin_with_it(tmp_path):
    store = RunStore(tmp_path)
    for number in range(1, 20):
        store.create("train", run_id=f"s-r{number}")
    assert store.get("s-r1").run_id == "s-r1"
