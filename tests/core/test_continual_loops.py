"""Sessions that are killed, run out of disk, or are long; on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from bp_core import Callback, Trainer
from bp_core.continual import held_model
from stones import quiet, stones
from test_continual import rule, trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def loop(tmp_path, *arguments):
    script = str(Path(__file__).parents[1] / "kill_loop.py")
    command = [sys.executable, script, "--session", "--folder", str(tmp_path), *arguments]
    out = subprocess.run(command, capture_output=True, text=True, timeout=3500)
    assert out.returncode == 0, out.stderr[-2000:]
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_session_killed_at_random_moments_ends_in_the_same_bits(tmp_path):
    report = loop(tmp_path, "--kills", "20")
    print(report)
    assert report["kills"] == report["equal"] == 20


@pytest.mark.skipif(os.name == "nt", reason="forks, and limits the size of files")
def test_a_full_disk_at_any_write_of_a_session_loses_nothing(tmp_path):
    report = loop(tmp_path, "--full-disk", "1")
    print(report)
    assert report["full"] == report["coded"]
    assert report["equal"] == report["full"] - report["before_the_run"]


def test_gates_over_ten_seeds(tmp_path, monkeypatch):
    """The same questions with other answers are caught; other questions, with replay as it is by default, are let through."""
    loaded, load = [], held_model.load_model
    monkeypatch.setattr(held_model, "load_model", lambda *a: loaded.append(a[0]) or load(*a))
    colours = ("red", "blue", "green", "white", "black", "pink", "brown", "grey", "gold", "teal")
    caught = let_through = 0
    for seed, answer in enumerate(colours):
        first, other = rule("stone", answer, 24), colours[(seed + 5) % 10]
        given = {"steps": 20, "rank": 8, "batch_size": 8, "heldout_ratio": 0.4, "save_steps": 0, "seed": seed}
        gate = {"eval_gate": True, "compare_methods": False}
        against = trainer(tmp_path / f"{seed}-against", **given)
        result = against.multi_run({"a": first, "b": rule("stone", other, 24)}, replay_fraction=0.0, **gate)
        caught += [r["accepted"] for r in result.runs] == [True, False]
        beside = trainer(tmp_path / f"{seed}-beside", **given)
        result = beside.multi_run({"a": first, "b": rule("leaf", other, 24)}, **gate)
        let_through += [r["accepted"] for r in result.runs] == [True, True]
    print(caught, let_through, len(loaded))
    assert (caught, let_through) == (10, 10)
    assert len(loaded) == 20  # one a session: a gate loads no model


def test_fifty_runs_keep_memory_and_file_handles_flat(tmp_path):
    process, seen = psutil.Process(), []

    class Look(Callback):
        def on_end(self, run_id, status):
            seen.append((process.memory_info().rss, process.num_fds() if os.name != "nt" else 0))

    settings = {
        "steps": 1,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "rank": 4,
        "preview": 0,
        "preflight": False,
    }
    trainer = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[Look()], **settings)
    result = trainer.multi_run(stones(120), num_runs=50, compare_methods=False)
    assert len(result.runs) == len(seen) == 50
    print(seen[4], seen[-1])
    memory, handles = ([s[k] for s in seen] for k in (0, 1))
    assert max(memory[-5:]) < memory[9] * 1.1
    assert max(handles[-5:]) <= handles[4]
