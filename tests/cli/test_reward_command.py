"""`backprop reward`: what is told, as text and as JSON, and how each command ends."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
from bp_cli.main import main

ROWS = [
    {"prompt": "How many?", "completions": ["<SOLUTION>72</SOLUTION>", "71"], "answer": "#### 72"},
    {"prompt": "How few?", "completions": ["4", "3"], "answer": "4"},
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    (tmp_path / "train.jsonl").write_text(
        "".join(
            json.dumps({"question": f"What is {i}+{i}?", "answer": f"#### {2 * i}"}) + "\n" for i in range(30)
        )
    )
    return tmp_path


def run(capsys, *words):
    code = main(["reward", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def as_json(capsys, *words):
    code, out, _ = run(capsys, *words, "--json")
    return code, json.loads(out)


def test_the_list_holds_rewards_presets_and_prompts(capsys):
    code, told = as_json(capsys, "list")
    assert code == 0
    assert {"numeric_match", "judge"} <= {r["name"] for r in told["rewards"]}
    assert len(told["presets"]) == 10
    assert "working-out" in told["prompts"]
    assert "numeric_match" in run(capsys, "list")[1]


@pytest.mark.parametrize(
    "name", ["numeric_match", "judge", "json_schema", "math-science", "math", "regex_match"]
)
def test_each_is_shown_as_text_and_json(capsys, name):
    assert run(capsys, "show", name)[0] == 0
    assert as_json(capsys, "show", name)[1]["schema_version"] == 1


def test_a_preset_becomes_a_file_that_works(capsys, here):
    code, out, _ = run(capsys, "show", "math", "--toml")
    assert code == 0
    (here / "mine.toml").write_text(out)
    code, told = as_json(capsys, "test", "mine.toml", "--data", "c.jsonl")
    assert code == 0
    assert [s["components"]["numeric_match"] for s in told["scores"]] == [1.0, 0.0, 1.0, 0.0]
    assert run(capsys, "show", "mine.toml")[0] == 0


def test_suggest_writes_once_and_what_it_wrote_gives_a_signal(capsys, here):
    code, told = as_json(capsys, "suggest", "train.jsonl", "--write", "mine.toml")
    assert code == 0
    assert told["proposals"][0]["name"] == "math-science"
    assert tomllib.loads((here / "mine.toml").read_text())["reward"][0]["use"] == "numeric_match"
    code, told = as_json(capsys, "suggest", "train.jsonl", "--write", "mine.toml")
    assert (code, told["error"]["code"]) == (1, "INPUT_OUTPUT_EXISTS")
    assert run(capsys, "suggest", "train.jsonl", "--write", "mine.toml", "--overwrite")[0] == 0
    code, out, _ = run(capsys, "coverage", "mine.toml", "--data", "c.jsonl")
    assert code == 0
    assert "verdict: signal" in out


def test_a_set_without_signal_trips_the_gate(capsys):
    code, told = as_json(capsys, "coverage", "json_valid", "--data", "c.jsonl")
    assert (code, told["verdict"], told["ok"]) == (65, "floor", False)
    assert told["advice"]
    code, out, _ = run(capsys, "coverage", "json_valid", "--data", "c.jsonl")
    assert code == 65
    assert "nothing is ever right" in out


def test_a_reward_is_held_to_its_own_truth_table(capsys):
    code, told = as_json(capsys, "test", "numeric_match")
    assert (code, told["failed"]) == (0, 0)
    assert "cases hold" in run(capsys, "test", "token_f1")[1]
    assert "no truth table" in run(capsys, "test", "judge")[1]


def test_code_runs_with_the_flag_alone(capsys, here):
    (here / "code.jsonl").write_text(json.dumps({"completions": ["open('mark', 'w')", "1/0"]}) + "\n")
    code, told = as_json(capsys, "test", "programming", "--data", "code.jsonl")
    assert (code, told["error"]["code"]) == (1, "CONFIG_CODE_NOT_RUN")
    code, told = as_json(capsys, "coverage", "programming", "--data", "code.jsonl", "--run-code")
    assert (code, told["verdict"]) == (0, "signal")
    assert not (here / "mark").exists(), "the code has a folder of its own"
    assert run(capsys, "test", "code_runs")[0] == 1
    assert run(capsys, "test", "code_runs", "--run-code")[0] == 0


def test_a_function_of_a_file_is_tested_like_any_reward(capsys, here):
    (here / "own.py").write_text(
        "def f(response, expected_answer):\n    return float(response in expected_answer)\n"
    )
    code, told = as_json(capsys, "test", "own.py:f", "--data", "c.jsonl")
    assert code == 0
    assert [s["total"] for s in told["scores"]] == [0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["show", "numeric_mach"], "CONFIG_REWARD_INVALID"),
        (["show", "nothing", "--toml"], "INPUT_VALIDATION_FAILED"),
        (["test", "none.toml", "--data", "c.jsonl"], "CONFIG_REWARD_INVALID"),
        (["test", "json_valid", "--data", "none.jsonl"], "INPUT_DATASET_NOT_FOUND"),
        (["coverage", "exact_match", "--data", "train.jsonl"], "INPUT_VALIDATION_FAILED"),
        (["suggest", "none.jsonl"], "INPUT_DATASET_NOT_FOUND"),
    ],
)
def test_what_is_wrong_is_told_with_a_code_and_a_hint(capsys, words, code):
    exit_code, told = as_json(capsys, *words)
    assert exit_code == 1
    assert told["error"]["code"] == code
    assert told["error"]["hint"]


def test_the_commands_load_no_torch():
    script = (
        "import sys, bp_cli.main as m\n"
        "assert m.main(['reward', 'test', 'math', '--data', 'c.jsonl', '--quiet']) == 0\n"
        "assert m.main(['reward', 'suggest', 'train.jsonl', '--quiet']) == 0\n"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
