"""Progress, Ctrl-C and output without a terminal, as a user sees them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from bp_cli.main import main
from bp_cli.progress import Progress
from bp_core.runs.store import RunStore
from bp_core.training.callbacks import StepInfo
from bp_merge.common import Sink

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal and POSIX signals")
TRAIN = ("train", "-m", "tiny", "-d", "rows.jsonl", "--no-preflight", "--preview", "0", "--batch-size", "2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    rows = [{"prompt": f"Code of room {i}?", "completion": f"It is {i * 7 % 100}."} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def step(number, steps, speed, tokens=100):
    return StepInfo("r", number, steps, 1.5, 1.0, 1e-3, tokens, speed)


def test_the_first_step_of_a_process_counts_for_nothing(capsys, monkeypatch):
    """100 tokens a step: 1 s of warm-up, then 0.1 s each; resumed at step 500 of 1000."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.delenv("BP_NO_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    shown = Progress(Sink())
    shown.on_start("r", 1000)
    shown.on_step(step(501, 1000, 100))
    assert "left" not in capsys.readouterr().err
    shown.on_step(step(502, 1000, 1000))
    err = capsys.readouterr().err
    assert "502/1000" in err
    assert "1,000 tokens/s" in err
    assert "0:50 left" in err  # 498 steps of 0.1 s
    monkeypatch.setenv("COLUMNS", "30")
    shown.on_step(step(503, 1000, 1000))
    (line,) = capsys.readouterr().err.split("\033[K")[1:]
    assert len(line) == 29


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("BP_NO_PROGRESS", "1")])
def test_plain_lines_where_a_line_must_not_move(capsys, monkeypatch, variable):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv(*variable)
    shown = Progress(Sink())
    for number in range(1, 101):
        shown.on_step(step(number, 100, 1000))
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 11
    assert "\033" not in err
    assert "\r" not in err


@POSIX
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_a_run_that_the_named_command_resumes(here, capsys):
    from terminal import terminal

    with terminal(*TRAIN, "--steps", "4000", "--run-id", "mine", folder=here, NO_COLOR="1") as shown:
        shown.until(" left", 200)
        shown.press("\x03")
        assert shown.ended() == 130
    lines = shown.seen.replace("\r", "\n").splitlines()
    assert any(
        re.search(r"[━─]{24} \d+/4000  loss \d+\.\d{3}  [\d,]+ tokens/s  [\d:]+ left", line) for line in lines
    )
    assert not re.search(r"\033\[\d*m", shown.seen)
    assert "next: backprop resume mine" in shown.seen
    assert "Traceback" not in shown.seen
    record = RunStore("output").get("mine")
    assert record.status == "interrupted"
    done = record.result["steps"]
    assert any((here / "output" / "mine" / "checkpoints").glob(f"step-{done:08d}"))
    assert main(["show-run", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_a_terminal_lines_stand_and_stdout_is_data(here):
    done = subprocess.run(
        [sys.executable, "-m", "bp_cli", *TRAIN, "--steps", "10", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 10
    assert len(re.findall(r"^step \d+/10  loss ", done.stderr, re.M)) == 10
    assert "\033" not in done.stderr
    assert "\r" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_in_a_narrow_tmux_the_line_stays_one(here):
    name = f"bp-{os.getpid()}"
    command = " ".join([sys.executable, "-m", "bp_cli", *TRAIN, "--steps", "30", "; sleep 60"])
    subprocess.run(
        ["tmux", "new-session", "-d", "-s", name, "-x", "50", "-y", "40", command], check=True, cwd=here
    )
    try:
        for _ in range(120):
            shown = subprocess.run(
                ["tmux", "capture-pane", "-p", "-t", name], capture_output=True, text=True, check=True
            ).stdout
            if "next:" in shown:
                break
            subprocess.run(["sleep", "1"], check=True)
        bars = [line for line in shown.splitlines() if "━" in line]
        assert len(bars) == 1, shown
        assert "30/30" in bars[0]
    finally:
        subprocess.run(["tmux", "kill-session", "-t", name], check=True)
