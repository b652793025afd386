"""The watch of a training run, put together from its settings."""

from __future__ import annotations

import math
from collections.abc import Iterable

from bp_core.safety.guards import DiskGuard, LossGuard
from bp_core.safety.monitor import Monitor
from bp_core.settings.decided import Decided
from bp_core.settings.knobs import Settings
from bp_core.settings.tables import RL_METHODS
from bp_core.training.callbacks import Callback
from bp_core.training.ranks import ALONE, Ranks
from bp_core.training.watching.agreed import Agreed
from bp_core.training.watching.best import Best
from bp_core.training.watching.disk import Disk
from bp_core.training.watching.evaluators import REWARD, value_name
from bp_core.training.watching.heat import Heat
from bp_core.training.watching.keeper import Keeper
from bp_core.training.watching.listeners import Listeners
from bp_core.training.watching.losses import Losses
from bp_core.training.watching.recorder import Recorder
from bp_core.training.watching.requests import Requests
from bp_core.training.watching.signals import Signals
from bp_core.training.watching.watch import Watch

FP16_OVERFLOWS = 10  # non-finite gradients in a row that fp16 loss scaling may meet while it finds its scale


def best_of(settings: Settings) -> Best:
    """What decides which evaluation is the best: the held-out loss or reward, or a metric of answers."""
    training = settings.training
    if training.best_by == "loss":
        if settings.method.method in RL_METHODS:
            return Best(training.patience, by=REWARD, higher=True)
        return Best(training.patience)
    from bp_core.evaluation.metrics import get_metric

    higher = get_metric(training.best_by).better == "higher"
    return Best(training.patience, by=f"heldout_{value_name(training.best_by)}", higher=higher)


def watch_of(
    recorder: Recorder,
    decided: Decided,
    signals: Signals,
    monitor: Monitor,
    *,
    callbacks: Iterable[Callback] = (),
    fp16: bool = False,
    vocabulary: int = 0,
    ranks: Ranks = ALONE,
) -> Watch:
    """The watch that the settings ask for, without evaluators yet.

    Args:
        recorder: of the run.
        decided: every setting of the run.
        signals: entered by the caller while training.
        monitor: of the card.
        callbacks: of the user.
        fp16: whether loss scaling is on.
        vocabulary: of the model; a loss far above ln of it is a spike from the first step on. 0 is unknown.
        ranks: the processes of the training.
    """
    run, training, safety = recorder.run, decided.settings.training, decided.settings.safety
    rewarded = decided.settings.method.method in RL_METHODS
    keeper = Keeper(
        run.path / "checkpoints",
        every=decided.save_steps,
        each_best=training.keep == "best",
        last=training.keep_last,
        best=training.keep_best,
        max_bytes=None if training.max_checkpoint_gb is None else training.max_checkpoint_gb * 1e9,
        ranks=ranks,
    )
    guard = LossGuard(
        factor=safety.spike_factor,
        grad_patience=FP16_OVERFLOWS if fp16 else 1,
        ceiling=4 * math.log(vocabulary) if vocabulary > 1 else math.inf,
        zero_is_odd=not rewarded,
    )
    disk = Disk(
        run.path,
        DiskGuard(safety.min_free_disk_gb * 1e9),
        next_save=lambda: keeper.bytes,
        resume=recorder.resume,
        say=recorder.say,
    )
    # what only the first process is asked, or must look at, comes to the others through `Agreed`
    own = (Requests(run.control), disk) if ranks.first else ()
    parts = (signals, *own[:1], Heat(monitor, recorder.resume), *own[1:])
    return Watch(
        recorder,
        decided.steps,
        losses=Losses(guard, recorder.say, run.run_id),
        parts=parts if ranks.alone else (Agreed(parts, ranks),),
        best=best_of(decided.settings),
        evaluate_every=decided.eval_steps,
        keeper=keeper,
        listeners=Listeners(callbacks, recorder.say),
        gauges=monitor.metrics,
        boundary=decided.settings.rl.num_iterations if rewarded else 1,
    )
