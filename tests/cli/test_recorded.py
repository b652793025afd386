"""Commands that write files are jobs: a row, events with stable codes, figures, artifacts; a plan or a look is none."""

from __future__ import annotations

import json
import shlex

import pytest
from bp_cli.main import main
from bp_cli.recorded import WRITES
from bp_cli.root import COMMANDS, cli
from bp_core.runs.store import RunStore
from bp_core.support.files import dumps

ROWS = [{"prompt": f"What is {n % 9} + 1?", "completion": str(n % 9 + 1)} for n in range(12)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "".join(dumps(r) + "\n" for r in [*ROWS, {"prompt": "no answer"}])
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "held.jsonl").write_text(dumps(ROWS[0]) + "\n", encoding="utf-8")
    return RunStore(tmp_path / "output")


def run(monkeypatch, line: str) -> int:
    monkeypatch.setattr("sys.argv", ["backprop", *shlex.split(line)])
    return main()


@pytest.mark.parametrize(
    ("line", "kind", "artifacts"),
    [
        ("data clean rows.jsonl", "data-clean", ["rows.clean.jsonl"]),
        ("data decontaminate rows.jsonl --against held.jsonl", "data-decontaminate", ["rows.decontaminated.jsonl"]),
        ("data split rows.jsonl --heldout-ratio 0.3", "data-split", ["rows.train.jsonl", "rows.heldout.jsonl"]),
        ("data map rows.jsonl --auto --drop all -o m.jsonl", "data-map", ["m.jsonl"]),
        ("data convert rows.jsonl --auto --drop all --shape sharegpt -o c.jsonl", "data-convert", ["c.jsonl"]),
        ("data report rows.jsonl --html r.html", "data-report", ["r.html"]),
    ],
)  # fmt: skip
def test_data_that_is_written_is_a_job(here, monkeypatch, capsys, line, kind, artifacts):
    assert run(monkeypatch, f"{line} --json") == 0
    told = json.loads(capsys.readouterr().out)
    (record,) = here.list()
    assert (record.kind, record.status, record.name) == (kind, "completed", " ".join(line.split()[:2]))
    assert record.config["data"]["dataset"] == "rows.jsonl"
    figures = {k: v for k, v in told.items() if isinstance(v, int | str) and k != "schema_version"}
    assert figures.items() <= record.result.items()
    names = [a.path.name for a in here.artifacts(record.run_id)]
    assert set(artifacts) <= set(names)
    assert all(a.path.is_file() for a in here.artifacts(record.run_id))
    codes = [e.code for e in here.events(record.run_id)]
    assert codes[0] == "JOB_PREPARING"
    assert codes[-1] == "RUN_FINISHED"
    if kind in ("data-clean", "data-convert"):
        (left,) = [e for e in here.events(record.run_id) if e.code == "ROWS_LEFT_OUT"]
        assert sum(left.details["reasons"].values()) >= 1
        assert all(reason == reason.lower() for reason in left.details["reasons"])


@pytest.mark.parametrize(
    "line",
    [
        "data clean rows.jsonl --dry-run",
        "data split rows.jsonl --dry-run",
        "data map rows.jsonl --auto",
        "data report rows.jsonl",
        "data clean rows.jsonl --output -",
        "data validate held.jsonl",
        "merge methods",
    ],
)
def test_a_plan_or_a_look_is_none(here, monkeypatch, line):
    assert run(monkeypatch, line) == 0
    assert not here.output.exists()


def test_what_a_job_runs_is_that_job(here, monkeypatch):
    monkeypatch.setenv("_BP_JOB", "of-the-ui")
    assert run(monkeypatch, "data clean rows.jsonl") == 0
    assert not here.output.exists()


def test_its_failure_has_the_commands_code(here, monkeypatch, capsys):
    assert run(monkeypatch, "data clean nowhere.jsonl --run-id mine --json") == 1
    record = here.get("mine")
    assert (record.status, record.result["error_code"]) == ("failed", "INPUT_DATASET_NOT_FOUND")
    assert json.loads(capsys.readouterr().out)["error"]["details"]["run_id"] == "mine"
    assert run(monkeypatch, "data clean rows.jsonl --run-id mine") == 1  # taken
    assert not (here.output.parent / "rows.clean.jsonl").exists()
    assert run(monkeypatch, "data report rows.jsonl --html r.html --fail-on-dups 0 --run-id gate") == 65
    gate = here.get("gate")
    assert (gate.status, gate.result["error_code"]) == ("failed", "INPUT_DATASET_REPORT_THRESHOLD")
    assert gate.result["exit_code"] == 65


def test_a_folder_that_cannot_hold_the_record_is_told_and_stops_nothing(here, monkeypatch, capsys):
    here.output.write_text("in the way", encoding="utf-8")
    assert run(monkeypatch, "data clean rows.jsonl") == 0
    assert "is not recorded" in capsys.readouterr().err
    assert run(monkeypatch, "data clean rows.jsonl --overwrite --run-id mine") == 2


def test_a_name_for_what_is_no_job_is_refused(here, monkeypatch, capsys):
    assert run(monkeypatch, "data clean rows.jsonl --dry-run --run-id mine") == 1
    assert "--run-id" in capsys.readouterr().err


def test_a_merge_is_a_job(here, monkeypatch, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        key = "base_model.model.model.layers.0.self_attn.q_proj.lora"
        draw = np.random.default_rng(ord(name))
        save_file(
            {f"{key}_A.weight": draw.normal(size=(2, 8)).astype("f4"), f"{key}_B.weight": draw.normal(size=(8, 2)).astype("f4")},
            folder / "adapter_model.safetensors",
        )  # fmt: skip
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert run(monkeypatch, "merge merge a b --output merged") == 0
    (record,) = here.list()
    assert (record.kind, record.status, record.name) == ("merge", "completed", "merge merge")
    assert record.result["modules"] == 1
    assert [a.path.name for a in here.artifacts(record.run_id)] == ["merged"]
    assert run(monkeypatch, "merge merge a b --output merged --run-id again") != 0
    assert here.get("again").status == "failed"


def test_every_name_of_the_table_is_a_command():
    import click

    for path in WRITES:
        group, name = path.split()
        assert group in COMMANDS
        found = cli.get_command(click.Context(cli), group)
        assert isinstance(found, click.Group)
        assert any(p.name == "run_id" for p in found.commands[name].params)
