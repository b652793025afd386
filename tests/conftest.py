"""Set up before torch loads: one thread that does not spin, no network, no telemetry."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("BACKPROPAGATE_DEBUG", None)

import pytest


@pytest.fixture(autouse=True)
def _leases_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the card that another one, or the user, trains on."""
    monkeypatch.setenv("BACKPROPAGATE_LEASE_DIR", str(tmp_path_factory.mktemp("leases")))
