"""`backprop multi-run` as a user meets it: figures, exit codes, what reads a session afterwards."""

from __future__ import annotations

import json

import pytest
from bp_cli.main import main
from bp_core.runs.store import RunStore

FLAGS = ("-m", "tiny", "--steps", "2", "--batch-size", "4", "--gradient-accumulation", "1", "--rank", "4")
QUIET = (
    "--preview",
    "0",
    "--no-preflight",
    "--heldout-ratio",
    "0.3",
    "--eval-steps",
    "0",
    "--save-steps",
    "0",
)


@pytest.fixture
def data(tmp_path):
    """Two datasets of twelve rows."""
    for name in ("stone", "leaf"):
        rows = [{"prompt": f"The colour of {name} {i}?", "completion": f"It is {i % 3}."} for i in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


def run(capsys, *arguments):
    """(exit code, stdout, stderr)"""
    code = main(list(arguments))
    told = capsys.readouterr()
    return code, told.out, told.err


def test_two_tasks_become_one_adapter_and_every_reader_of_runs_knows_the_session(data, capsys):
    out = str(data / "out")
    files = ("-d", str(data / "stone.jsonl"), "-d", str(data / "leaf.jsonl"))
    code, text, err = run(
        capsys, "multi-run", *files, *FLAGS, *QUIET, "-o", out, "--run-id", "weeks", "--json"
    )
    assert code == 0, err
    told = json.loads(text)
    assert (told["run_id"], told["status"], told["strategy"]) == ("weeks", "completed", "qiao_mahdavi")
    assert [r["task"] for r in told["runs"]] == ["stone", "leaf"]
    assert "run 2 of 2: leaf" in err
    assert "min left" in err
    code, text, _ = run(capsys, "runs", "-o", out)
    assert all(name in text for name in ("weeks", "weeks-r1", "weeks-r2", "multi-run"))
    code, text, _ = run(capsys, "show-run", "weeks", "-o", out)
    assert code == 0
    assert all(part in text for part in ("backward transfer", "after run", "weeks-r1", "SESSION_MERGED"))
    code, text, _ = run(capsys, "multi-run", "--remerge", "ties", "--resume", "weeks", "-o", out, "--json")
    assert code == 0
    assert json.loads(text)["adapter_path"].endswith("weeks/adapter-ties")
    code, text, _ = run(capsys, "diff-runs", "weeks-r1", "weeks-r2", "-o", out)
    assert code == 0
    code, _, err = run(capsys, "resume", "weeks", "-o", out)
    assert (code, "STATE_RUN_FINISHED" in err) == (2, True)
    from bp_core.runs.adapters import find_adapter

    assert find_adapter("latest", out) == RunStore(out).get("weeks").path / "adapter"


def test_what_contradicts_itself_is_told(data, capsys):
    code, _, err = run(capsys, "multi-run", "--fresh", "--resume", "x", "-o", str(data / "out"))
    assert (code, "--fresh" in err) == (1, True)
    code, _, err = run(
        capsys, "multi-run", "--remerge", "ties", "--resume", "nobody", "-o", str(data / "out")
    )
    assert (code, "INPUT_RUN_NOT_FOUND" in err) == (1, True)
