"""Each method improves its own objective on rows held out, over three seeds, against the same run that learns nothing."""

from __future__ import annotations

import pytest
from trajectories import METHODS, trajectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_improves_on_the_frozen_control(tmp_path, method, seed):
    given = {"seed": seed, "heldout_ratio": 0.25, "steps": 24}
    taught, _ = trajectory(method, tmp_path / "taught", **given)
    frozen, _ = trajectory(method, tmp_path / "frozen", **given, learning_rate=1e-30)
    start, end = frozen["heldout_loss"]
    assert end == pytest.approx(start, rel=1e-6)
    assert taught["heldout_loss"][0] == start
    told = f"{method} seed {seed}: held-out loss {start:.4f} → {taught['heldout_loss'][-1]:.4f}"
    if method != "sft":
        before, after = frozen["heldout_rewards_accuracy"][-1], taught["heldout_rewards_accuracy"][-1]
        told += f", accuracy {before:.2f} → {after:.2f}"
        assert after > before or after == 1
    print(told)
    assert taught["heldout_loss"][-1] < 0.95 * end
