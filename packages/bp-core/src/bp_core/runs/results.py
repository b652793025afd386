"""What a training run gives back: figures that were measured, not asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The outcome of one training run.

    Args:
        run_id: of the record.
        status: completed, stopped or interrupted.
        reason: why it ended before the asked steps, "" otherwise.
        path: the run's folder.
        adapter_path: the adapter as PEFT loads it; after `mode="full"` the model as transformers loads it.
        base_model: what the user named.
        steps: optimizer steps done; `steps_requested` were asked for.
        epochs: passes over the training pieces.
        train_loss: of the last step, nats per label.
        heldout_loss_before: before the first step; None without a hold-out.
        heldout_loss_after: of the weights in `adapter_path`.
        best_step: with the lowest held-out loss.
        tokens: trained on, padding left out.
        seconds: spent in optimizer steps.
        tokens_per_second: over those.
        peak_memory: bytes; of the card, or of the process on the CPU.
        micro_batch: examples per forward pass at the end.
        rows_accepted: of the dataset.
        rows_rejected: of the dataset, by reason in `rejections`.
        rejections: reason → rows.
    """

    run_id: str
    status: str
    reason: str
    path: Path
    adapter_path: Path
    base_model: str
    steps: int
    steps_requested: int
    epochs: float
    train_loss: float
    heldout_loss_before: float | None
    heldout_loss_after: float | None
    best_step: int | None
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory: int
    micro_batch: int
    rows_accepted: int
    rows_rejected: int
    rejections: dict[str, int]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> RunResult:
        """What `to_dict` gave."""
        return cls(**{**told, "path": Path(told["path"]), "adapter_path": Path(told["adapter_path"])})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return {k: v.as_posix() if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class SessionResult(RunResult):
    """The outcome of a session of many runs; what it has in common with a run is summed over them.

    Args:
        strategy: how adapters were merged; `simple` where they were not.
        runs: one entry a run: `run_id`, `task`, `accepted`, `reason`, `facts`, `seconds`.
        left_out: ids of the runs that a gate kept out of the result.
        forgetting: every task's held-out figures after every run (`continual.forgetting.summary`); empty without hold-outs.
        compared: strategy → `exact_match` and `loss`, the means over the tasks that a merge by it would have.
        best_strategy: the best of those, "" where nothing was compared.
    """

    strategy: str
    runs: tuple[dict[str, Any], ...]
    left_out: tuple[str, ...]
    forgetting: dict[str, Any]
    compared: dict[str, dict[str, float]]
    best_strategy: str
