"""Runs through the command: what is told, where it is read, how it ends."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import bp_core
import bp_data
import bp_export
import bp_merge
import pytest
from bp_cli.codes import rows
from bp_cli.main import main
from bp_core.runs.store import RunStore

LEAKS = {
    "validate https://user:hunter2pass@host/x": "hunter2pass",
    "validate sk-abcdefghijklmnop1234": "abcdefghijklmnop",
    "train --nope=hf_AbCdEfGhIjAbCdEfGhIj": "AbCdEfGhIj",
    "merge https://user:hunter2pass@host/x": "hunter2pass",
    "export https://user:hunter2pass@host/x": "hunter2pass",
    "generate https://user:hunter2pass@host/x hello": "hunter2pass",
    "resume https://user:hunter2pass@host/x": "hunter2pass",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("BACKPROPAGATE_"):
            monkeypatch.delenv(name)
    yield tmp_path
    from bp_core.support import logs

    logs.reset()


def run(capsys, line):
    code = main(line.split() if isinstance(line, str) else line)
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("line", LEAKS)
@pytest.mark.parametrize("extra", ["", " --json", " --verbose"])
def test_no_error_shows_a_secret(capsys, line, extra):
    code, out, err = run(capsys, f"--verbose {line}" if "verbose" in extra else line + extra)
    assert code != 0
    assert LEAKS[line] not in out + err
    if extra == " --json":
        assert json.loads(out)["error"]["code"]


@pytest.mark.parametrize("name", ["train", "export", "merge", "validate", "runs", "show-run", "resume"])
def test_a_usage_error_is_json_where_asked(capsys, name):
    code, out, err = run(capsys, [name, "--no-such-flag", "--json"])
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, "INPUT_USAGE")
    assert error["hint"].endswith("--help")
    assert main(error["hint"].split()[1:]) == 0
    assert "No such option" in err


@pytest.mark.parametrize(
    "line", ["train -d nope.jsonl", "resume nope", "generate nope hello", "train --show-config", "runs"]
)
def test_cheap_answers_come_without_torch(line, here):
    script = "import sys; from bp_cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *line.split()], capture_output=True, text=True, cwd=here, check=False
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_commands_read_the_output_that_train_writes(capsys, here):
    (here / "backprop.toml").write_text('[tracking]\noutput = "elsewhere"\n')
    with RunStore("elsewhere").create("train") as made:
        pass
    assert run(capsys, "runs --quiet")[1].split() == [made.run_id]
    assert run(capsys, f"show-run {made.run_id} --quiet")[1].strip() == "completed"
    code, _, err = run(capsys, f"resume {made.run_id}")
    assert code == 2
    assert "STATE_RUN_FINISHED" in err
    assert "elsewhere" in err
    assert "STATE_RUN_NOT_ACTIVE" in run(capsys, f"stop {made.run_id}")[2]


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_lost_store_names_the_rebuild(capsys, here, how):
    with RunStore("output").create("train") as made:
        pass
    for side in Path("output").glob("runs.db*"):
        side.unlink()
    if how == "emptied":
        Path("output/runs.db").touch()
    for command in ("resume", "show-run"):
        code, out, _ = run(capsys, [command, made.run_id, "--json"])
        error = json.loads(out)["error"]
        assert code == 1
        assert error["hint"] == "python -m bp_core.runs.rebuild output"
    from bp_core.runs.rebuild import main as rebuild

    assert rebuild(["output"]) == 0
    assert run(capsys, f"show-run {made.run_id} --quiet")[0] == 0


def test_no_run_of_a_status_is_not_no_run(capsys):
    with RunStore("output").create("train"):
        pass
    _, out, _ = run(capsys, "list-runs --status failed")
    assert "failed" in out
    assert "quickstart" not in out


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BACKPROPAGATE_TRAINNG__STEPS", "BACKPROPAGATE_TRAINING__STEPS"),
        ("BACKPROPAGATE_MODEL_NAME", "BACKPROPAGATE_MODEL__NAME"),
    ],
)
def test_a_misspelt_variable_is_refused(capsys, monkeypatch, variable, meant):
    monkeypatch.setenv(variable, "5")
    code, _, err = run(capsys, "train --show-config")
    assert code == 1
    assert meant in err
    monkeypatch.delenv(variable)
    Path(".env").write_text(f"{variable}=5\n")
    assert run(capsys, "train --show-config")[0] == 1


@pytest.mark.parametrize("name", ["DEBUG", "UI__PORT", "UI_AUTH", "SECURITY__X", "DEFER_FEATURE_DETECTION"])
def test_known_foreign_names_pass(capsys, monkeypatch, name):
    monkeypatch.setenv("BACKPROPAGATE_" + name, "0")
    assert run(capsys, "train --show-config")[0] == 0


def test_logging_variables_act_on_every_command(capsys, monkeypatch, here):
    monkeypatch.setenv("BACKPROPAGATE_LOG_LEVEL", "debug")
    monkeypatch.setenv("BACKPROPAGATE_LOG_JSON", "auto")
    monkeypatch.setenv("BACKPROPAGATE_LOG_FILE", "log.jsonl")
    from bp_core.support import logs

    assert run(capsys, "runs")[0] == 0
    assert logs.settings()["level"] == "DEBUG"
    assert logs.settings()["format"] == "json"
    assert logs.settings()["file"] == "log.jsonl"


def test_a_bare_hub_name_is_taken_as_one(here):
    from bp_core.encoding.sources import named
    from bp_core.settings.resolve import resolve

    told: list[str] = []
    asked = resolve({"data": ("tatsu-lab/alpaca", "hf:a/b")})
    assert named(asked, told.append).data.data == ("hf:tatsu-lab/alpaca", "hf:a/b")
    assert told == ["tatsu-lab/alpaca is no path here: taken as the Hub dataset hf:tatsu-lab/alpaca"]
    for name in ("data/train.jsonl", "./x/y", "a/b/c"):
        with pytest.raises(bp_core.BpError, match="INPUT_DATASET_NOT_FOUND"):
            named(resolve({"data": (name,)}), told.append)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 65, "a b", "-x"])
def test_a_chosen_run_id_is_a_safe_name(name):
    with pytest.raises(bp_core.BpError, match="CONFIG_INVALID_SETTING"):
        RunStore("output").create("train", run_id=name)


def test_a_chosen_run_id_is_taken_once():
    with RunStore("output").create("train", run_id="mine-1") as made:
        assert made.run_id == "mine-1"
    started = RunStore("output").events("mine-1")[0]
    assert started.details["run_id"] == "mine-1"
    with pytest.raises(bp_core.BpError, match="INPUT_RUN_EXISTS"):
        RunStore("output").create("train", run_id="mine-1")


def test_exit_codes_have_one_source():
    table = {row.code: row for row in rows()}
    for package in (bp_core, bp_data, bp_merge, bp_export):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BpError" and node.args:
                    given = [k.value for k in node.keywords if k.arg == "exit_code"]
                    code = getattr(node.args[0], "value", None)
                    if given and isinstance(given[0], ast.Attribute) and code in table:
                        assert table[code].exit_code == bp_merge.common.Exit[given[0].attr], (path, code)
    assert table["RUNTIME_GPU_OOM"].exit_code == table["RUNTIME_OUT_OF_MEMORY"].exit_code == 137
    assert table["DEP_OLLAMA_UNREACHABLE"].exit_code == 69


def test_help_of_train_has_headings(capsys):
    _, out, _ = run(capsys, "train --help")
    for heading in ("Model", "Data", "LoRA", "Training", "Safety", "Tracking", "Command"):
        assert f"\n{heading} options:" in out


def test_ctrl_c_exits_130_and_names_resume(capsys, monkeypatch, here):
    import signal

    from bp_cli import progress

    class Interrupting(progress.Progress):
        def on_step(self, info):
            if info.step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress, "Progress", Interrupting)
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"say {i}", "completion": f"it is {i}"}) + "\n" for i in range(20))
    )
    line = "train -m tiny -d rows.jsonl --steps 6 --batch-size 2 --run-id mine --output there"
    code, out, err = run(capsys, line)
    assert code == 130
    assert "next: backprop resume mine --output there" in out
    assert "run mine in there/mine" in err.splitlines()
