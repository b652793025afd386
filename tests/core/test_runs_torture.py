"""Long proofs of the run store, on demand: `pytest -m slow tests/core/test_runs_torture.py`."""

import random
import sqlite3
import subprocess
import sys
import time

import pytest
from bp_core.runs.store import RunStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS = 50

WRITER = """
import sys
from pathlib import Path
from bp_core.runs.store import RunStore
from bp_core.runs.writer import Run
store = RunStore(Path(sys.argv[1]))
run = store.open(sys.argv[2], step=int(sys.argv[3])) if len(sys.argv) > 3 else store.create(seed=1)
print(run.run_id, flush=True)
step = run.step
while True:
    step += 1
    run.metric(step, loss=1.0 / step, grad_norm=float(step))
    run.control()
    if step % 7 == 0:
        run.event("CHECKPOINT_SAVED", "x" * 300, step=step)
        run.artifact("checkpoint", run.path / str(step))
    if step % 5 == 0:
        if run.flush():  # else the other writer held the lock: kept in memory, not promised
            print(step, flush=True)
        else:
            assert run.problem.retryable
"""


def test_50_kills_at_random_moments_lose_nothing_that_was_committed(tmp_path):
    rng = random.Random(7)
    (tmp_path / "writer.py").write_text(WRITER)
    store = RunStore(tmp_path)
    other = subprocess.Popen(
        [sys.executable, str(tmp_path / "writer.py"), str(tmp_path)], stdout=subprocess.DEVNULL
    )
    run_id, committed = None, 0
    try:
        for _ in range(KILLS):
            resume = [run_id, str(committed)] if run_id else []
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / "writer.py"), str(tmp_path), *resume],
                stdout=subprocess.PIPE,
                text=True,
            )
            run_id = process.stdout.readline().strip()
            last = int(process.stdout.readline())
            time.sleep(rng.random() * 0.05)
            process.kill()
            rest = process.stdout.read().split("\n")
            process.stdout.close()
            process.wait()
            last = max([last, *(int(x) for x in rest[:-1] if x.isdigit())])
            steps = [s for s, _ in store.metrics(run_id, "loss")]
            assert steps == list(range(1, len(steps) + 1)), "no hole, over every kill and resume"
            assert len(steps) >= last > committed
            assert store.get(run_id).status == "crashed"
            committed = last
            db = sqlite3.connect(tmp_path / "runs.db")
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
    finally:
        other.kill()
        other.wait()
    print(f"{KILLS} kills, {committed} steps committed")


FULL = """
import resource, signal, sys
from pathlib import Path
from bp_core.errors import BpError
from bp_core.runs.store import RunStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = RunStore(Path(sys.argv[1]), timeout=1.0)
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), free[1]))
try:
    run = store.create(seed=1)
except BpError as error:
    print("refused", error.code, len(list(Path(sys.argv[1]).glob("2*"))))
    raise SystemExit
for step in range(1, 1001):
    run.metric(step, loss=1.0, grad_norm=2.0)
    if step % 100 == 0:
        run.flush()
full = run.problem is not None
resource.setrlimit(resource.RLIMIT_FSIZE, free)
run.finish("completed")
print("kept", full, len(store.metrics(run.run_id, "loss")), store.get(run.run_id).status)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_disk_that_is_full_at_any_size_refuses_whole_or_loses_nothing(tmp_path):
    (tmp_path / "full.py").write_text(FULL)
    refused = kept = 0
    for limit in range(0, 240_000, 6_000):
        folder = tmp_path / str(limit)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "full.py"), str(folder), str(limit)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        word, *rest = done.stdout.split()
        if word == "refused":
            refused += 1
            assert rest[0] in ("RUNTIME_DISK_FULL", "STATE_RUNS_UNWRITABLE")
            assert rest[1] == "0", "a refused run leaves no directory"
        else:
            kept += rest[0] == "True"
            assert rest[1:] == ["1000", "completed"], limit
        if (folder / "runs.db").exists() and (folder / "runs.db").stat().st_size:
            db = sqlite3.connect(folder / "runs.db")
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
    assert refused
    assert kept
    print(f"40 limits: {refused} runs refused whole, {kept} filled up on the way and lost nothing")
