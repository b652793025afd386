"""One training run from settings to adapter directory, new or resumed: opened, fitted, delivered."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bp_export.adapter.base import ResolvedBase

from bp_core.runs.writer import Run
from bp_core.settings.knobs import Settings
from bp_core.settings.tables import RL_METHODS
from bp_core.training.callbacks import Callback
from bp_core.training.deliver import After, Trained, deliver
from bp_core.training.fit import Fitted, fit
from bp_core.training.inputs import to_stderr
from bp_core.training.open import Opened, follow_run, open_run, reopen_run


def run_training(
    settings: Settings,
    *,
    sources: Any = None,
    callbacks: Iterable[Callback] = (),
    tell: Callable[[str], None] = to_stderr,
    parent: str | None = None,
    now: dt.datetime | None = None,
    after: After | None = None,
    run_id: str | None = None,
    base: ResolvedBase | None = None,
    run: Run | None = None,
) -> Trained:
    """Train from the start.

    Args:
        settings: as resolved.
        sources: an iterable of `Example` instead of `settings.data.data`.
        callbacks: called between steps.
        tell: shown to the user.
        parent: the run that this one replays.
        now: the moment that dated templates see; this one unless given.
        after: called with the trained model before the run ends; what it returns joins the recorded result.
        run_id: its name; made from the time unless given.
        base: of the settings, where `refuse_early` gave both; asked here otherwise.
        run: its record where the caller made it before (`record_training`), and ends it.

    Raises:
        BpError: with the run's id in its details once there is one.
    """
    opening = open_run(
        settings, sources=sources, tell=tell, parent=parent, now=now, run_id=run_id, base=base, run=run
    )
    with opening as opened:
        return deliver(fitted(opened, callbacks), after)


def fitted(opened: Opened, callbacks: Iterable[Callback] = ()) -> Fitted:
    """An opened run, trained by its method."""
    if opened.settings.method.method in RL_METHODS:
        from bp_core.rl.fit import fit_by_rewards  # TRL is loaded where it is needed

        return fit_by_rewards(opened, callbacks=callbacks)
    if opened.settings.model.backend == "mlx":
        from bp_core.mlx.fit import fit_by_mlx  # so is MLX

        return fit_by_mlx(opened, callbacks=callbacks)
    return fit(opened, callbacks=callbacks)


def follow_training() -> Trained:
    """Train the run that the first process opens, in another one that a launcher started beside it.

    Raises:
        BpError: `RUNTIME_PROCESS_LOST`.
    """
    with follow_run() as opened:
        return deliver(fit(opened))


def resume_training(
    output: Path, run_id: str, *, callbacks: Iterable[Callback] = (), tell: Callable[[str], None] = to_stderr
) -> Trained:
    """Continue a run from its newest complete checkpoint, bit for bit as if it had not stopped.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `STATE_RUN_FINISHED`, `STATE_RUN_ACTIVE`, `STATE_TOKENS_MISSING`, `INPUT_WRONG_BASE`.
    """
    with reopen_run(output, run_id, tell=tell) as opened:
        return deliver(fitted(opened, callbacks))
