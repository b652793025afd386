"""Runs that must follow one trajectory: the same loss and gradient norm at every step, worst and mean drift told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bp_core import Callback, RunStore, Trainer
from bp_core.runs.results import RunResult
from pairs import judged, pairs
from stones import quiet, stones

ROWS = {"sft": stones, "dpo": pairs, "orpo": pairs, "simpo": pairs, "kto": judged}
METHODS = tuple(ROWS)
BASE: dict[str, Any] = {
    "preview": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "batch_size": 8,
    "gradient_accumulation": 1,
    "max_seq_length": 256,
    "rank": 8,
    "learning_rate": 2e-3,
}
Curves = dict[str, list[float]]


def trainer_of(method: str, folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    """A trainer of the tiny model by `method`, its runs below `folder`."""
    given = {**BASE, "method": method, **settings}
    return Trainer("tiny", output=folder, tell=quiet, callbacks=callbacks, **given)


def trajectory(method: str, folder: Path, *, steps: int = 6, **settings: Any) -> tuple[Curves, RunResult]:
    """Train; every metric of the run as a curve, and its result."""
    result = trainer_of(method, folder, **settings).train(ROWS[method](), steps=steps)
    return curves_of(folder, result.run_id), result


def curves_of(folder: Path, run_id: str) -> Curves:
    """The metrics of a run, in the order of their steps."""
    store = RunStore(folder)
    return {name: [value for _, value in store.metrics(run_id, name)] for name in store.metric_names(run_id)}


def assert_one_trajectory(
    what: str, one: Curves, other: Curves, *, worst: float = 1e-4, mean: float = 2e-5
) -> None:
    """Loss and gradient norm agree at every step, relative to the second."""
    for name in ("loss", "grad_norm"):
        assert len(one[name]) == len(other[name])
        drift = [abs(x - y) / max(abs(y), 1e-6) for x, y in zip(one[name], other[name], strict=True)]
        print(f"{what} {name}: drift at most {max(drift):.1e}, mean {sum(drift) / len(drift):.1e}")
        assert max(drift) < worst, (what, name, max(drift))
        assert sum(drift) / len(drift) < mean, (what, name)


@contextlib.contextmanager
def out_of_memory(rows: int, *, times: int = 10**9, error: Exception | None = None) -> Iterator[list[int]]:
    """Training passes over more than `rows` sequences run out of memory in the decoder, the first `times` of them.

    Yields:
        [how many are left].
    """
    left = [times]

    def forward(module: Any, args: Any) -> None:
        wide = type(module).__name__ == "Qwen3DecoderLayer" and args and args[0].shape[0] > rows
        if wide and torch.is_grad_enabled() and left[0]:
            left[0] -= 1
            raise error or torch.OutOfMemoryError("CUDA out of memory")

    hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        yield left
    finally:
        hook.remove()


class StopAt(Callback):
    """Asks the run to save and stop after a step, as another process would."""

    def __init__(self, step: int, folder: Path) -> None:
        self.step, self.folder = step, folder

    def on_step(self, info: Any) -> None:
        if info.step == self.step:
            RunStore(self.folder).request(info.run_id, "stop-and-save")
