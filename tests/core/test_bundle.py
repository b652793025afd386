"""The support bundle explains a failed run, and holds no secret, no row of data and no weight."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from bp_core.errors import BpError
from bp_core.runs.bundle import LOG_BYTES, support_bundle
from bp_core.runs.store import RunStore

# built here, so that no scanner takes this file for a leak
TOKEN = "hf_" + "Ab3" * 11
LITERAL = "correct-horse-battery-staple"
URL = "https://user:" + "pw" * 6 + "@host/x"
DATA = "the patient's name is Bartholomew"


@pytest.fixture
def failed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MY_API_KEY", LITERAL)
    store = RunStore(tmp_path / "out")
    run = store.create(
        config={"data": {"data": [URL, str(Path.home() / "rows.jsonl")]}, "training": {"steps": 4}},
        dataset={"accepted": 3, "rejected": 1},
        environment={"command": f"backprop train --hub-token {TOKEN}"},
        seed=1,
    )
    run.metric(1, loss=2.5, learning_rate=1e-4)
    run.event("RUN_PAUSED", f"asked with {LITERAL}", token=TOKEN)
    (run.path / "tokens").mkdir()
    rows = [
        {
            "source": "a.jsonl",
            "line": 3,
            "reason": "empty_field",
            "field": "prompt",
            "hint": "fill it",
            "excerpt": DATA,
        }
    ]
    (run.path / "tokens" / "rejected.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"cut')
    (run.path / "run.log").write_text(f'{{"event": "api_key={LITERAL}"}}\nAuthorization: Bearer {TOKEN}\n')
    (run.path / "model.safetensors").write_bytes(b"weights")
    run.finish("failed", {"error": f"CUDA error while {LITERAL}", "code": "RUNTIME_UNEXPECTED"})
    return store, run.run_id


def opened(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {n.partition("/")[2]: archive.read(n).decode() for n in archive.namelist()}


def test_it_explains_the_failure(failed, tmp_path):
    store, run_id = failed
    files = opened(support_bundle(store, run_id, tmp_path / "b.zip"))
    run = json.loads(files["run.json"])
    assert run["status"] == "failed"
    assert run["config"]["training"] == {"steps": 4}
    assert run["result"]["code"] == "RUNTIME_UNEXPECTED"
    assert run["dataset"] == {"accepted": 3, "rejected": 1}
    assert "RUN_PAUSED" in [e["code"] for e in json.loads(files["run_events.json"])]
    assert json.loads(files["metrics.json"])["loss"] == [[1, 2.5]]
    assert json.loads(files["rejections.json"]) == [
        {"source": "a.jsonl", "line": 3, "reason": "empty_field", "field": "prompt", "hint": "fill it"}
    ]
    assert json.loads(files["environment.json"])["python"]
    assert sorted(files) == json.loads(files["bundle.json"])["files"]


def test_nothing_planted_leaves(failed, tmp_path):
    store, run_id = failed
    path = support_bundle(store, run_id, tmp_path / "b.zip")
    everything = "\n".join(opened(path).values())
    for planted in (TOKEN, LITERAL, "pw" * 6, DATA, "weights\n", str(Path.home()) + "/"):
        assert planted not in everything, planted
    assert "~/rows.jsonl" in everything


def test_jobs_of_the_run_come_along(failed, tmp_path):
    store, run_id = failed
    job = store.create("eval", parent=run_id)
    (job.path / "failure_clusters.json").write_text(json.dumps([{"pattern": "empty answer", "count": 4}]))
    job.finish("completed", {"accuracy": 0.5})
    files = opened(support_bundle(store, run_id, tmp_path / "b.zip"))
    assert json.loads(files["related_jobs.json"])[0]["result"] == {"accuracy": 0.5}
    assert json.loads(files[f"{job.run_id}-failure_clusters.json"])[0]["count"] == 4


def test_a_long_log_is_cut_at_its_beginning_and_that_is_told(failed, tmp_path):
    store, run_id = failed
    log = store.get(run_id).path / "run.log"
    log.write_text("x" * 99 + "\n" + "".join(f"line {i}\n" for i in range(LOG_BYTES // 8)))
    files = opened(support_bundle(store, run_id, tmp_path / "b.zip"))
    assert files["run.log"].endswith(f"line {LOG_BYTES // 8 - 1}\n")
    assert "run.log" in json.loads(files["bundle.json"])["left_out"]


def test_the_newest_run_is_meant_and_nothing_is_overwritten(failed, tmp_path, monkeypatch):
    store, run_id = failed
    monkeypatch.chdir(tmp_path)
    assert support_bundle(store, None) == Path(f"support-{run_id}.zip")
    with pytest.raises(BpError) as caught:
        support_bundle(store, None)
    assert caught.value.code == "INPUT_OUTPUT_EXISTS"
    with pytest.raises(BpError) as caught:
        support_bundle(RunStore(tmp_path / "empty"), None)
    assert caught.value.code == "INPUT_RUN_NOT_FOUND"


def test_a_full_disk_leaves_no_half_of_it(failed, tmp_path, monkeypatch):
    import bp_core.runs.bundle as module

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    store, run_id = failed
    with pytest.raises(BpError) as caught:
        support_bundle(store, run_id, tmp_path / "b.zip")
    assert caught.value.code == "RUNTIME_DISK_FULL"
    assert not (tmp_path / "b.zip").exists()
