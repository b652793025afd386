"""Stopped or killed, resumed once or twice: the final weights are those of the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from bp_core import Callback, RunStore, StepInfo, Trainer
from bp_merge.common import BpError
from stones import quiet, stones

SETTINGS = {
    "steps": 12,
    "save_steps": 3,
    "eval_steps": 4,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "dropout": 0.1,
    "preview": 0,
}


class StopAt(Callback):
    """Asks for a stop after a step, the way another process would."""

    def __init__(self, folder: Path, step: int, action: str = "stop-and-save") -> None:
        self.folder, self.step, self.action = folder, step, action

    def on_step(self, info: StepInfo) -> None:
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, self.action)


def weights(path: Path) -> bytes:
    return (path / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("truth")
    return weights(Trainer("tiny", output=folder, tell=quiet, **SETTINGS).train(stones()).adapter_path)


def test_stopped_and_resumed_twice(tmp_path, truth):
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 4)], **SETTINGS).train(
        stones()
    )
    assert (first.status, first.reason) == ("stopped", "CONTROL_STOP")
    assert first.steps == 5  # asked after step 4, obeyed at the next
    second = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 7)]).resume(
        first.run_id
    )
    assert (second.status, second.steps) == ("stopped", 8)
    third = Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id[:15])
    assert (third.status, third.steps, third.run_id) == ("completed", 12, first.run_id)
    assert weights(third.adapter_path) == truth
    with pytest.raises(BpError, match="STATE_RUN_FINISHED"):
        Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id)
    assert weights(third.adapter_path) == truth  # nothing is left to do, and nothing changes
    steps = [s for s, _ in RunStore(tmp_path).metrics(first.run_id, "loss")]
    assert steps == list(range(1, 13))


def test_another_card_is_told_as_no_longer_bit_for_bit(tmp_path):
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 3)], **SETTINGS).train(
        stones()
    )
    told: list[str] = []
    rows = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    (text,) = rows.execute("select environment from runs").fetchone()
    there = {**json.loads(text), "gpus": [{"name": "RTX 4080"}]}
    rows.execute("update runs set environment = ?", (json.dumps(there),))
    Trainer("tiny", output=tmp_path, tell=told.append, callbacks=[StopAt(tmp_path, 5)]).resume(first.run_id)
    (line,) = [t for t in told if "bit for bit" in t]
    assert "GPU RTX 4080 → none" in line
    told.clear()
    rows.execute("update runs set environment = ?", (text,))
    rows.close()
    Trainer("tiny", output=tmp_path, tell=told.append).resume(first.run_id)
    assert not [t for t in told if "bit for bit" in t]


def test_a_stop_without_saving_falls_back_to_the_last_checkpoint(tmp_path, truth):
    first = Trainer(
        "tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 7, "stop")], **SETTINGS
    ).train(stones())
    assert [c.name for c in sorted((first.path / "checkpoints").iterdir())][-1] == "step-00000006"
    assert weights(Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id).adapter_path) == truth


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, truth):
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 7)], **SETTINGS).train(
        stones()
    )
    newest = max((first.path / "checkpoints").iterdir())
    (newest / "optimizer.safetensors").write_bytes(b"torn")
    told: list[str] = []
    result = Trainer("tiny", output=tmp_path, tell=told.append).resume(first.run_id)
    assert any("passed over" in line for line in told)
    assert weights(result.adapter_path) == truth


def test_a_run_without_a_checkpoint_starts_over(tmp_path, truth):
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 7)], **SETTINGS).train(
        stones()
    )
    shutil.rmtree(first.path / "checkpoints")
    assert weights(Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id).adapter_path) == truth


def test_an_interrupt_saves_and_stops(tmp_path, truth):
    class Interrupt(Callback):
        def on_step(self, info: StepInfo) -> None:
            if info.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[Interrupt()], **SETTINGS).train(stones())
    assert (first.status, first.steps) == ("interrupted", 6)
    assert weights(Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id).adapter_path) == truth


def test_another_base_is_refused(tmp_path):
    first = Trainer("tiny", output=tmp_path, tell=quiet, callbacks=[StopAt(tmp_path, 2)], **SETTINGS).train(
        stones()
    )
    store = RunStore(tmp_path)
    import sqlite3

    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE runs SET base_model=json_set(base_model, '$.config_sha256', 'other')")
    with pytest.raises(BpError) as error:
        Trainer("tiny", output=tmp_path, tell=quiet).resume(first.run_id)
    assert error.value.code == "INPUT_WRONG_BASE"


def loop(tmp_path, *arguments):
    out = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parents[1] / "kill_loop.py"),
            "--folder",
            str(tmp_path),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert out.returncode == 0, out.stderr[-2000:]
    return json.loads(out.stdout.splitlines()[-1])


@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(1600)])])
def test_killed_at_random_moments(tmp_path, kills):
    report = loop(tmp_path, "--kills", str(kills))
    print(report)
    assert report["kills"] == report["equal"] == kills


@pytest.mark.skipif(os.name == "nt", reason="forks, and limits the size of files")
@pytest.mark.parametrize("every", [131, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1600)])])
def test_a_full_disk_loses_nothing(tmp_path, every):
    report = loop(tmp_path, "--full-disk", str(every))
    print(report)
    assert report["full"] == report["coded"]
    assert report["equal"] == report["full"] - report["before_the_run"]
