"""Benchmark scripts whose figures need other hardware still run, at toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOY = ["--device", "cpu", "--shape", "toy", "--steps", "2", "--batch", "2", "--tokens", "32"]


@pytest.mark.slow
def test_gpu_training_runs_on_a_cpu():
    ways = ["bp-core", "trl", "unsloth"]
    command = [sys.executable, str(BENCHMARKS / "gpu_training.py"), *TOY, "--json"]
    for way in ways:
        command += ["--way", way]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours, trl, unsloth = json.loads(done.stdout.splitlines()[-1])
    for row in (ours, trl):
        assert "not_run" not in row, row
        assert row["tokens_per_second"] > 0
        assert 3 <= row["warm_up"] <= 15
        assert row["measured"] == 2
        assert 0 < row["mfu"] < 1
        assert len(row["kernels"]) == 10
    assert trl["bp_core_over_this"] > 0
    assert "not_run" in unsloth, "a peer that cannot run is told, not left out"


def test_a_way_that_is_late_or_fails_is_told():
    command = [sys.executable, str(BENCHMARKS / "gpu_training.py"), *TOY, "--json", "--deadline", "0.5"]
    done = subprocess.run([*command, "--way", "bp-core"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])[0]["not_run"] == "its time was over"
