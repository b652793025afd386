"""What users of older tools type: taken, or refused with what to type instead."""

from __future__ import annotations

import json

import pytest
from bp_cli.main import main
from bp_cli.root import ALIASES, COMMANDS
from bp_core.runs.store import RunStore
from bp_core.settings.resolve import resolve


def run(capsys, *argv):
    code = main(list(argv))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_unsloth_is_retired_with_a_reason(capsys):
    code, _, err = run(capsys, "train", "--no-unsloth", "--data", "x.jsonl")
    assert code == 1
    assert "one training loop" in err


def test_auto_is_what_the_program_decides():
    found = resolve({"batch_size": "auto", "rank": "Auto", "steps": "none", "optim": "auto"})
    assert (found.training.batch_size, found.lora.rank, found.training.steps) == (None, None, None)
    assert found.training.optim == "auto"


def test_a_hub_id_without_hf_is_told(capsys):
    code, _, err = run(capsys, "train", "--data", "tatsu-lab/alpaca")
    assert code == 1
    assert "hf:tatsu-lab/alpaca" in err
    for path in ("rows/a.jsonl", "a", "b/c/d"):  # these are files
        assert "hf:" not in run(capsys, "train", "--data", path)[2]


def test_export_runs_takes_its_format(capsys):
    RunStore("output").create().finish("completed", {})
    code, out, _ = run(capsys, "export-runs", "--format", "jsonl")
    assert code == 0
    assert json.loads(out)["status"] == "completed"
    assert run(capsys, "export-runs", "--format", "xml")[0] == 1


def test_train_resume_refuses_what_would_change_the_run(capsys):
    store = RunStore("output")
    config = resolve({"model": "tiny", "steps": 5}).to_dict()
    store.create(config=config, run_id="one").finish("stopped", {})
    code, _, err = run(capsys, "train", "--resume", "one", "--steps", "9")
    assert (code, err.split()[0]) == (1, "[CONFIG_CONFLICT]")
    assert "training.steps" in err
    assert "backprop replay one" in err
    code, _, err = run(capsys, "train", "--resume", "one", "--steps", "5", "--run-id", "x")
    assert code == 1
    assert "--run-id" in err
    code, _, err = run(capsys, "train", "--resume", "nobody")
    assert err.split()[0] == "[INPUT_RUN_NOT_FOUND]"
    code, _, err = run(capsys, "train", "--resume", "one", "--steps", "5")
    assert err.split()[0] == "[STATE_TOKENS_MISSING]"  # as `backprop resume one`


def test_the_tiers_name_every_verb(capsys):
    code, out, _ = run(capsys, "info", "--subcommand-tiers", "--json")
    assert code == 0
    told = json.loads(out)["subcommands"]
    assert set(told) == set(COMMANDS) | set(ALIASES)
    assert told["list-runs"] == {"tier": "alias", "help": COMMANDS["runs"][1], "stands_for": "runs"}


def test_a_short_name_is_the_model_of_the_shortlist_and_a_misspelt_one_is_corrected(
    capsys, monkeypatch, here
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(here))
    (here / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    code, _, err = run(capsys, "train", "-d", "a.jsonl", "-m", "Phi 4 mini 3.8b", "--dry-run")
    assert code == 1
    assert err.startswith("Phi 4 mini 3.8b is microsoft/Phi-4-mini-instruct\n[DEP_MODEL_LOAD_FAILED]")
    assert "did you mean" not in err
    _, _, err = run(capsys, "train", "-d", "a.jsonl", "-m", "Qwen/Qwen2.5-7B-Instuct", "--dry-run")
    assert "did you mean Qwen/Qwen2.5-7B-Instruct?" in err
