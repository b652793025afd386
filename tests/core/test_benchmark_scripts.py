"""Benchmark scripts whose figures need other hardware still run, at toy size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_gpu_training_runs_on_a_cpu():
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_training.py"),
        "--device",
        "cpu",
        "--shape",
        "toy",
        "--json",
    ]
    command += [
        "--steps",
        "3",
        "--batch",
        "2",
        "--tokens",
        "32",
        "--repeat",
        "1",
        "--way",
        "bp-core",
        "--way",
        "trl",
    ]
    command += ["--way", "unsloth"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours, trl, unsloth = json.loads(done.stdout.splitlines()[-1])
    assert ours["tokens_per_second"] > 0
    assert trl["bp_core_over_this"] > 0
    assert "not_run" in unsloth, "a peer that cannot run is told, not left out"
