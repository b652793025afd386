"""Set up before torch loads: one thread that does not spin, no network, no telemetry."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("BACKPROPAGATE_DEBUG", None)

import pytest
from printed import check


@pytest.fixture(autouse=True)
def _what_is_printed_is_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `--json` of every test is held to the published schema."""
    import bp_data.common
    import bp_merge.common

    printed = bp_merge.common.Sink.result

    def result(self: Any, data: Any, *args: Any, **more: Any) -> None:
        if self.mode == "json":
            check(data)
        printed(self, data, *args, **more)

    for package in (bp_merge.common, bp_data.common):  # a copy of one file in each
        monkeypatch.setattr(package.Sink, "result", result)


@pytest.fixture(autouse=True)
def _no_log_handler_is_left() -> Iterator[None]:
    """A command that a test calls in this process writes its log to that test's stderr, which is closed after it."""
    yield
    logs = sys.modules.get("bp_core.support.logs")
    if logs is not None and logs.settings()["has_handler"]:
        logs.reset()


@pytest.fixture(autouse=True)
def _leases_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the card that another one, or the user, trains on."""
    monkeypatch.setenv("BACKPROPAGATE_LEASE_DIR", str(tmp_path_factory.mktemp("leases")))
