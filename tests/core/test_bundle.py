"""The support bundle explains a failed run, and holds no secret, no row of data and no weight."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from bp_core.errors import BpError
from bp_core.runs.bundle import LOG_BYTES, support_bundle
from bp_core.runs.store import RunStore
from bp_core.support.redact import conceal

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


# secrets of no known shape, in places that no schema names
PLAIN = "Tr0ub4dor-and-3"
QUOTED = 'sa"y-fr\\iend-ü-9'
PRESIGNED = "f" * 24


def planted(store, monkeypatch) -> str:
    """A failed run with them everywhere; its id."""
    for name, value in {
        "NPM_TOKEN": PLAIN + "-npm",
        "DB_PASS": QUOTED,
        "OPENAI_KEY": PLAIN + "-key",
        "GH_PAT": PLAIN + "-pat",
    }.items():
        monkeypatch.setenv(name, value)
    conceal(PLAIN + "-judge")
    nested = json.dumps({"headers": {"api_key": PLAIN, "Authorization": f"Basic {PLAIN}=="}})
    run = store.create(
        config={
            "data": {
                "data": [
                    f"https://{PLAIN}@host/x.jsonl",
                    f"s3://u:{PLAIN}@x@host/y",
                    f"https://b/x?X-Amz-Signature={PRESIGNED}&n=1",
                ]
            },
            "rl": {"rewards": nested, "extra": [{"deep": {"key_of_judge": {"password": PLAIN}}}]},
        },
        dataset={
            "sources": [{"source": f"https://h/d?key={PRESIGNED}"}],
            "keys": [f"meta.note: {PLAIN}-npm"],
            "told": {f"row with {TOKEN}": 2},
        },
        base_model={"ref": f"https://oauth2:{TOKEN}@hub/m"},
        environment={"command": f"HF_TOKEN={TOKEN} backprop train --password {PLAIN}"},
    )
    run.event(
        "STALLED_X", f"the judge at https://{PLAIN}@judge/v1 said: bad key {PLAIN}-judge", by={TOKEN: 1}
    )
    run.event("SAMPLE_GENERATED", f"db says {QUOTED}", details=json.dumps({"pw": QUOTED}))
    (run.path / "tokens").mkdir()
    row = {
        "source": f"https://{PLAIN}@h/a.jsonl",
        "line": 3,
        "reason": "empty_field",
        "field": f"meta[{TOKEN}]",
        "hint": f"not {PLAIN}-key",
        "excerpt": DATA,
    }
    (run.path / "tokens" / "rejected.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (run.path / "rewards.json").write_text(
        json.dumps(
            {
                "reward": [
                    {
                        "use": "judge",
                        "parameters": {"url": f"http://{PLAIN}@j/v1?key={PRESIGNED}", "key_env": "MY_JUDGE"},
                    }
                ]
            }
        ),
        encoding="utf-8",
    )
    (run.path / "failure_clusters.json").write_text(
        json.dumps([{"pattern": f"said {PLAIN}-pat", TOKEN: 1}]), encoding="utf-8"
    )
    traceback = (
        'Traceback (most recent call last):\n  File "own.py", line 3, in call\n'
        f'    requests.get(url, headers={{"api_key": "{PLAIN}"}})\n'
        f"ValueError: {PLAIN}-npm, {quote(QUOTED, safe='')}, password='{PLAIN}'\n"
    )
    lines = [
        traceback,
        json.dumps({"event": traceback, "args": nested, "pw": QUOTED}),
        json.dumps({"event": json.dumps({"event": nested})}),
    ]
    (run.path / "run.log").write_text("\n".join(lines), encoding="utf-8")
    run.finish(
        "failed", {"error": f"401 from https://{PLAIN}@judge: {PLAIN}-judge", "code": "RUNTIME_JUDGE_FAILED"}
    )
    return run.run_id


def test_no_secret_leaves_from_where_nobody_looks(tmp_path, monkeypatch):
    store = RunStore(tmp_path / "out")
    run_id = planted(store, monkeypatch)
    files = opened(support_bundle(store, run_id, tmp_path / "b.zip"))
    assert {"rewards.json", "run.log", "rejections.json", "failure_clusters.json"} <= set(files)
    spelt = {
        QUOTED,
        json.dumps(QUOTED)[1:-1],
        json.dumps(QUOTED, ensure_ascii=False)[1:-1],
        quote(QUOTED, safe=""),
    }
    for name, text in files.items():
        for secret in (PLAIN, PRESIGNED, TOKEN, DATA, *spelt):
            assert secret not in text, (name, secret, text[max(0, text.find(secret) - 80) :][:200])
        if name.endswith(".json"):
            json.loads(text)
    log = files["run.log"]
    assert "Traceback (most recent call last)" in log
    assert 'File "own.py", line 3' in log
    assert json.loads(files["run.json"])["result"]["code"] == "RUNTIME_JUDGE_FAILED"
    assert "n=1" in files["run.json"]
