"""A checkpoint is complete or not there; loading runs no code; retention never takes the newest."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from bp_core.training import checkpoint
from bp_core.training.state import load_state, random_state, save_state, set_random_state
from bp_merge.common import BpError


def fill(text: str):
    return lambda folder: (folder / "a.txt").write_text(text * 1000)


def test_written_and_read_back(tmp_path):
    made = checkpoint.write(tmp_path, 7, fill("x"), run_id="r")
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, found.path, found.manifest["run_id"], skipped) == (7, made.path, "r", [])
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no manifest", "bad manifest"])
def test_a_damaged_one_is_passed_over_and_told(tmp_path, damage):
    checkpoint.write(tmp_path, 1, fill("x"))
    newest = checkpoint.write(tmp_path, 2, fill("y")).path
    file = newest / "a.txt"
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[500] ^= 1
        file.write_bytes(data)
    elif damage == "remove":
        file.unlink()
    elif damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text('{"step": ')
    found, skipped = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(skipped) == 1
    with pytest.raises(BpError) as error:
        checkpoint.read(newest)
    assert error.value.code == "STATE_CHECKPOINT_INVALID"


def test_a_failed_write_leaves_the_others_and_no_rest(tmp_path):
    checkpoint.write(tmp_path, 1, fill("x"))

    def full(folder):
        (folder / "a.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(BpError) as error:
        checkpoint.write(tmp_path, 2, full)
    assert error.value.code == "RUNTIME_CHECKPOINT_FAILED"
    assert [c.step for c in checkpoint.complete(tmp_path)] == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_the_same_step_again_replaces_it(tmp_path):
    checkpoint.write(tmp_path, 1, fill("x"))
    checkpoint.write(tmp_path, 1, fill("y"))
    assert (checkpoint.read(tmp_path / "step-00000001").path / "a.txt").read_text().startswith("y")


def test_retention_keeps_last_and_best_and_the_cap(tmp_path):
    for step in range(1, 7):
        checkpoint.write(tmp_path, step, fill("x"))
    (tmp_path / ".step-00000009.partial").mkdir()
    assert checkpoint.retain(tmp_path, last=2, best=[2]) == [1, 3, 4]
    assert [c.step for c in checkpoint.complete(tmp_path)] == [2, 5, 6]
    assert not (tmp_path / ".step-00000009.partial").exists()
    checkpoint.retain(tmp_path, last=3, max_bytes=1)
    assert [c.step for c in checkpoint.complete(tmp_path)] == [6]


def test_states_come_back_exactly_and_without_pickle(tmp_path):
    shared = torch.arange(6.0)
    state = {
        "groups": [{"lr": 0.1 + 0.2, "betas": (0.9, 0.999), "fused": None, "flag": True}],
        0: {"step": torch.tensor(3.0), "avg": torch.randn(4, 3).to(torch.bfloat16), "view": shared[2:4]},
        "big": 2**80,
    }
    save_state(tmp_path, "state", state)
    back = load_state(tmp_path, "state")
    assert back["groups"] == state["groups"]
    assert back["big"] == 2**80
    for key in state[0]:
        assert torch.equal(back[0][key], state[0][key])
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


def test_what_is_no_state_is_refused(tmp_path):
    with pytest.raises(TypeError, match="no training state"):
        save_state(tmp_path, "state", {"x": object()})


def test_random_generators_go_on_where_they_were(tmp_path):
    save_state(tmp_path, "random", random_state())
    draw = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: E731
    first = draw()
    set_random_state(load_state(tmp_path, "random"))
    assert draw() == first
