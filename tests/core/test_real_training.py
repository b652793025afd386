"""The whole chain on a real pretrained model, at a few steps (benchmarks/real_run.py gives the figures)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import real

ROOT = Path(__file__).parents[2]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_gemma_learns_is_killed_resumes_and_answers(tmp_path):
    real.gemma3_model_dir()
    rows = [
        {
            "question": f"Ann has {a} apples and buys {b} more. How many has she?",
            "answer": f"{a}+{b}={a + b}. #### {a + b}",
        }
        for a in range(2, 10)
        for b in range(2, 7)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    command = [sys.executable, str(ROOT / "benchmarks" / "real_run.py"), "--data", str(data), "--json"]
    done = subprocess.run(
        [*command, "--steps", "12", "--rows", "40", "--hand", "0"],
        capture_output=True,
        text=True,
        timeout=1150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    print(told)
    assert told["killed_and_resumed_equal"]
    assert told["heldout_loss_after"] < told["heldout_loss_before"] - 0.3
    assert told["answer"] == told["answer_in_llama_cpp"]
