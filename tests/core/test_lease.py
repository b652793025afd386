"""One card, one job at a time: first come first served, and whoever dies makes way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from bp_core.runs.lease import FOLDER, Lease, holder

WAITER = """
import sys, time
from pathlib import Path
from bp_core.runs.lease import Lease
with Lease("cpu", run_id=sys.argv[1], output=Path(sys.argv[2])) as lease:
    lease._queue()
    print("queued", flush=True)
    lease.wait(poll=0.02)
    print("mine", flush=True)
    sys.stdin.readline()
assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "leases"))


def waiter(name, output):
    child = subprocess.Popen(
        [sys.executable, "-c", WAITER, name, str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "queued\n"
    return child


def test_the_card_goes_round_in_the_order_of_asking_and_the_dead_make_way(tmp_path):
    first = Lease("cpu", run_id="first", output=tmp_path / "one")
    assert first.take()
    assert holder("cpu")["run_id"] == "first"
    assert holder("cpu")["output"] == str(tmp_path / "one")
    second, third, fourth = (waiter(name, tmp_path / name) for name in ("second", "third", "fourth"))
    late = Lease("cpu", run_id="late", output=tmp_path)
    assert late.ahead() == 3
    assert not late.take()
    os.kill(third.pid, signal.SIGKILL)  # it waited
    third.wait()
    first.release()
    assert second.stdout.readline() == "mine\n"
    assert holder("cpu")["run_id"] == "second"
    assert late.ahead() == 1
    os.kill(second.pid, signal.SIGKILL)  # it held the card
    second.wait()
    assert fourth.stdout.readline() == "mine\n"
    assert holder("cpu")["run_id"] == "fourth"
    fourth.communicate("\n", timeout=20)
    assert fourth.returncode == 0
    assert holder("cpu") is None
    assert late.wait(poll=0.01)
    late.release()
    for child in (second, third):
        child.stdin.close()
        child.stdout.close()


def test_cards_do_not_wait_for_each_other_and_a_wait_can_be_called_off(tmp_path):
    with (
        Lease("cuda-0", run_id="a", output=tmp_path) as one,
        Lease("cuda-1", run_id="b", output=tmp_path) as two,
    ):
        assert one.take()
        assert two.take()
        started = time.monotonic()
        with Lease("cuda-0", run_id="c", output=tmp_path) as third:
            assert not third.wait(cancelled=lambda: time.monotonic() - started > 0.05, poll=0.01)
            assert not list(third.folder.glob("*.ticket"))
            assert not third.wait(beat=0.05, poll=0.01)


def test_a_ticket_that_was_cleared_by_mistake_is_drawn_again_in_its_place(tmp_path):
    with Lease("cpu", run_id="a", output=tmp_path) as one, Lease("cpu", run_id="b", output=tmp_path) as two:
        assert one.take()
        two._queue()
        (two.folder / two._name).unlink()
        two._queue()
        assert [p.name for p in two.folder.glob("*.ticket")] == [two._name]
