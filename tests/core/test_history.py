"""Runs recorded by Backpropagate 1.x are taken in whole."""

from __future__ import annotations

import json

import pytest
from bp_cli.main import main
from bp_core.errors import BpError
from bp_core.runs.history import import_history
from bp_core.runs.store import RunStore

OLD = {
    "run_id": "3f0c1a52-7a5e-4a80-9d2e-0b7f4f7f1c11",
    "timestamp": "2026-05-01T10:00:00",
    "started_at": "2026-05-01T10:00:00",
    "completed_at": "2026-05-01T10:30:00",
    "model_name": "Qwen/Qwen2.5-7B-Instruct",
    "dataset_info": "my_data.jsonl",
    "steps": 100,
    "final_loss": 1.25,
    "loss_history": [2.0, 1.5, 1.25, 1.2],
    "hyperparameters": {
        "lora_r": 256, "lora_alpha": 512, "learning_rate": 2e-4, "batch_size": 2, "gradient_accumulation": 4,
        "max_seq_length": 2048, "max_steps": 100, "seed": 7, "use_unsloth": True, "method": "sft",
    },
    "duration_seconds": 1800.0,
    "gpu_max_temp": 71,
    "status": "completed",
    "session_kind": "single_run",
    "dataset_hash": "0123456789abcdef",
    "schema_version": "1.0",
}  # fmt: skip


def written(tmp_path, *records, wrap=lambda r: r):
    file = tmp_path / "run_history.json"
    file.write_text(json.dumps(wrap(list(records))))
    return file


def test_a_run_is_as_if_made_here(tmp_path):
    store = RunStore(tmp_path / "out")
    found = import_history(store, written(tmp_path, OLD))
    assert found.runs == (OLD["run_id"],)
    run = store.get("3f0c1a52")
    assert (run.status, run.kind, run.step, run.seed, run.seconds) == ("completed", "train", 100, 7, 1800.0)
    assert run.config["lora"] == {"rank": 256, "alpha": 512.0}
    assert run.config["training"]["learning_rate"] == 2e-4
    assert run.config["data"]["data"] == ["my_data.jsonl"]
    assert run.result["imported"]["gpu_max_temp"] == 71  # nothing of the record is lost
    assert run.result["imported"]["hyperparameters"]["use_unsloth"] is True
    assert store.metrics(run.run_id, "loss") == [(25, 2.0), (50, 1.5), (75, 1.25), (100, 1.2)]
    assert [e.code for e in store.events(run.run_id)] == ["RUN_IMPORTED"]


@pytest.mark.parametrize(
    "wrap",
    [lambda r: r, lambda r: {"schema_version": "1.0", "runs": r}, lambda r: {x["run_id"]: x for x in r}],
)
def test_each_shape_of_the_file(tmp_path, wrap):
    store = RunStore(tmp_path / "out")
    assert import_history(store, written(tmp_path, OLD, {**OLD, "run_id": "b"}, wrap=wrap)).runs == (
        OLD["run_id"],
        "b",
    )


def test_again_changes_nothing(tmp_path):
    store, file = RunStore(tmp_path / "out"), written(tmp_path, OLD)
    import_history(store, file)
    again = import_history(store, file)
    assert (again.runs, again.there) == ((), (OLD["run_id"],))
    assert len(store.list()) == 1


def test_hostile_records_cost_no_other(tmp_path):
    records = [
        None, 3, {}, {"run_id": "../x", "timestamp": "2026-05-01"}, {"run_id": "t"}, {"run_id": "t2", "timestamp": "soon"},
        {**OLD, "run_id": "odd", "loss_history": [None, "x", 1.0], "hyperparameters": {"lora_r": -3, "seed": "x"}, "steps": "many", "status": "running"},
        {**OLD, "run_id": "multi", "session_kind": "multi_run", "started_at": None, "completed_at": None, "status": "failed", "failure_reason": "token hf_" + "a1B" * 10},
    ]  # fmt: skip
    store = RunStore(tmp_path / "out")
    found = import_history(store, written(tmp_path, *records))
    assert found.runs == ("odd", "multi")
    assert len(found.passed_over) == 6
    assert store.get("odd").status == "interrupted"
    assert store.metrics("odd", "loss") == [(1, 1.0)]
    multi = store.get("multi")
    assert (multi.kind, multi.status, multi.seconds) == ("multi-run", "failed", 1800.0)
    assert "a1Ba1B" not in json.dumps(multi.to_dict())


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", "[", '{"runs": []}', "\0"])
def test_what_is_no_history_is_refused(tmp_path, text):
    (tmp_path / "run_history.json").write_text(text)
    with pytest.raises(BpError) as caught:
        import_history(RunStore(tmp_path / "out"), tmp_path / "run_history.json")
    assert caught.value.code == "INPUT_HISTORY_INVALID"
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, capsys):
    file = written(tmp_path, OLD, None)
    out = str(tmp_path / "out")
    assert main(["runs", "import", str(file), "--output", out, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["imported"] == [OLD["run_id"]]
    assert main(["runs", "--output", out, "--quiet"]) == 0
    assert capsys.readouterr().out.split() == [OLD["run_id"]]
