"""The `backprop` command as a user meets it: help, typos, exit codes, streams, runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from bp_cli.main import main
from bp_cli.root import COMMANDS, cli
from bp_core.runs.store import RunStore
from click.shell_completion import BashComplete


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = main(list(arguments))
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def store(tmp_path):
    """Two runs, one completed and one failed."""
    store = RunStore(tmp_path / "out")
    config = {"training": {"steps": 4, "learning_rate": 1e-3}, "model": {"model": "tiny"}}
    sources = {"training.steps": "given", "training.learning_rate": "default", "model.model": "given"}
    facts = {"base_model": {"ref": "tiny"}, "dataset": {"rows": 9, "accepted": 8, "rejected": 1}}
    with store.create("train", config=config, sources=sources, seed=1, **facts) as made:
        for step in range(1, 5):
            made.metric(step, loss=4.0 / step)
        made.finish("completed", {"heldout_loss_before": 3.0, "heldout_loss_after": 1.5, "train_loss": 1.0})
    changed = {**config, "training": {"steps": 4, "learning_rate": 1e-2}}
    with (
        pytest.raises(RuntimeError),
        store.create("train", config=changed, sources=sources, seed=2, **facts) as made,
    ):
        made.metric(1, loss=4.0)
        raise RuntimeError("the card fell off the bus")
    return store


def test_help_lists_every_command_with_its_line(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in out
        assert line.split(".")[0][:40] in out
    assert "list-runs" not in out, "an alias is not shown"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_shows_examples(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert "Usage: backprop " + name in out
    usage = out.split("Usage:", 1)[1].partition("\n")[2]
    assert "Commands:" in out or "xample" in usage or "backprop " in usage, "a group, or an example"


def test_version(capsys):
    for flag in ("--version", "-V"):
        assert run(capsys, flag)[:2] == (0, "backprop 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["trian"], "train"),
        (["train", "--lrr", "1"], "--lr"),
        (["quickstrt"], "quickstart"),
        (["shw-run", "x"], "show-run"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant_and_exit_1(capsys, arguments, meant):
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert meant in err


def test_an_error_is_code_cause_and_hint_on_stderr(capsys, tmp_path):
    code, out, err = run(capsys, "show-run", "20990101", "--output", str(tmp_path))
    assert (code, out) == (1, "")
    first, blank, hint = err.strip().splitlines()[:3]
    assert first.startswith("[INPUT_RUN_NOT_FOUND] ")
    assert blank == ""
    assert hint.startswith("hint: ")


def test_an_error_as_json_is_one_object_on_stdout(capsys, tmp_path):
    code, out, _ = run(capsys, "show-run", "20990101", "--output", str(tmp_path), "--json")
    assert code == 1
    error = json.loads(out)["error"]
    assert error["code"] == "INPUT_RUN_NOT_FOUND"
    assert {"message", "hint", "retryable", "details"} <= set(error)


def test_a_traceback_is_shown_only_when_asked_for(capsys, tmp_path):
    arguments = ("show-run", "20990101", "--output", str(tmp_path))
    assert "Traceback" not in run(capsys, *arguments)[2]
    assert "Traceback" in run(capsys, "--verbose", *arguments)[2]


def test_runs_shows_newest_first_and_filters(capsys, store):
    where = ("--output", str(store.output))
    code, out, _ = run(capsys, "runs", *where)
    assert code == 0
    assert [word for word in ("completed", "failed") if word in out] == ["completed", "failed"]
    data = json.loads(run(capsys, "runs", *where, "--json")[1])
    assert data["schema_version"] == 1
    assert {r["status"] for r in data["runs"]} == {"completed", "failed"}
    assert run(capsys, "list-runs", *where, "--status", "failed", "--quiet")[1].split() == [
        r["run_id"] for r in data["runs"] if r["status"] == "failed"
    ]


def test_runs_of_an_empty_folder_says_so(capsys, tmp_path):
    code, out, _ = run(capsys, "runs", "--output", str(tmp_path))
    assert code == 0
    assert "no runs" in out


def test_show_run_takes_a_prefix_and_shows_what_was_set(capsys, store):
    done = store.list(status="completed")[0]
    where = ("--output", str(store.output))
    code, out, _ = run(capsys, "show-run", done.run_id[:-1], *where)
    assert code == 0
    assert "training.steps" in out
    assert "training.learning_rate" not in out, "a default is not shown"
    data = json.loads(run(capsys, "show-run", done.run_id, *where, "--json")[1])
    assert data["run_id"] == done.run_id
    assert data["events"][0]["code"] == "RUN_STARTED"


def test_diff_runs_shows_what_differs(capsys, store):
    ids = [r.run_id for r in store.list()]
    where = ("--output", str(store.output))
    code, out, _ = run(capsys, "diff-runs", *ids, *where)
    assert code == 0
    assert "training.learning_rate" in out
    assert "training.steps" not in out
    data = json.loads(run(capsys, "diff-runs", *ids, *where, "--json")[1])
    assert data["settings"]["training.learning_rate"] == [1e-2, 1e-3]
    assert json.loads(run(capsys, "diff-runs", *ids, *where, "--format", "json")[1]) == data


def test_export_runs_writes_json_lines(capsys, store, tmp_path):
    where = ("--output", str(store.output))
    lines = run(capsys, "export-runs", *where)[1].splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"completed", "failed"}
    target = tmp_path / "deep" / "runs.jsonl"
    assert run(capsys, "export-runs", *where, "--to", str(target), "--status", "completed")[:2] == (0, "")
    assert [json.loads(line)["status"] for line in target.read_text().splitlines()] == ["completed"]


def test_stop_of_a_run_that_ended_is_refused(capsys, store):
    done = store.list(status="completed")[0].run_id
    code, _, err = run(capsys, "stop", done, "--output", str(store.output))
    assert code == 2
    assert "[STATE_RUN_NOT_ACTIVE]" in err


def test_ui_says_how_to_install_it_where_it_is_not(capsys, monkeypatch):
    import importlib.util

    import bp_cli.commands.ui as command

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bp_ui" else found(name))
    try:
        importlib.reload(command)
        code, out, err = run(capsys, "ui", "--port", "7862", "--share")
    finally:
        monkeypatch.undo()
        importlib.reload(command)
    assert (code, out) == (1, "")
    assert "[DEP_UI_NOT_AVAILABLE]" in err
    assert "pip install 'bp-suite[ui]'" in err


def test_info_tells_versions_and_what_is_missing(capsys):
    data = json.loads(run(capsys, "info", "--json")[1])
    assert {"python", "packages", "features", "gpus", "logging"} <= set(data)
    assert data["packages"]["bp-core"] == "0.1.0"
    assert "torch" in run(capsys, "info")[1]


def test_info_of_a_model_says_what_is_there(capsys):
    data = json.loads(run(capsys, "info", "tiny", "--json")[1])
    assert data["source"] == "entry_point"
    assert all(data[part] for part in ("configuration", "tokenizer", "chat_template"))
    assert data["weights_bytes"] > 1_000_000


def test_every_code_has_a_meaning_and_an_exit_code(capsys):
    data = json.loads(run(capsys, "info", "--error-codes", "--json")[1])["error_codes"]
    assert data["INPUT_RUN_NOT_FOUND"]["exit_code"] == 1
    assert data["RUNTIME_OUT_OF_MEMORY"]["exit_code"] == 137
    assert data["HUB_AUTH_FAILED"]["exit_code"] == 69
    assert all(c["meaning"] and c["packages"] for c in data.values())


def test_secrets_are_not_printed_with_the_variables(capsys, monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_HUB_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setenv("BACKPROPAGATE_LORA__R", "8")
    out = run(capsys, "info", "--env-vars")[1]
    assert "BACKPROPAGATE_LORA__R" in out
    assert "abcdefghijklmnop" not in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_prints_a_script_that_calls_back(capsys, shell):
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_BACKPROP_COMPLETE" in out


def test_completion_completes_commands_and_flags():
    complete = BashComplete(cli, {}, "backprop", "_BACKPROP_COMPLETE")
    assert {c.value for c in complete.get_completions([], "sh")} == {"show-run"}
    assert "--learning-rate" in {c.value for c in complete.get_completions(["train"], "--learn")}


def test_a_reader_that_goes_away_is_no_error(store):
    """`backprop export-runs | head -0`."""
    command = [sys.executable, "-c", "import sys; from bp_cli.main import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "export-runs", "-o", str(store.output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert b"Traceback" not in error


def test_json_has_no_nan(capsys):
    from bp_merge.common import Sink

    Sink("json").result({"loss": float("nan"), "all": [1.0, {"x": float("-inf")}]})
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert (told["loss"], told["all"]) == (None, [1.0, {"x": None}])
