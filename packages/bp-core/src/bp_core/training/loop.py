"""What every training of an opened run has in common: its watch, its arguments, and the loop under them.

- The watch looks after whichever trainer is given to it: the one step of all methods, or TRL's that draws answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers

from bp_core.generation.answers import answers
from bp_core.models.card import card_of
from bp_core.runs import trackers
from bp_core.safety.guards import HeatGuard
from bp_core.safety.monitor import Monitor
from bp_core.training.answered import Answered
from bp_core.training.callbacks import Callback
from bp_core.training.open import Opened
from bp_core.training.watching.build import watch_of
from bp_core.training.watching.evaluators import Evaluator, HeldOut, Prompts
from bp_core.training.watching.recorder import Recorder
from bp_core.training.watching.signals import Signals
from bp_core.training.watching.watch import Watch

SCHEDULES = {"constant": "constant_with_warmup"}  # field's name → transformers' name, where they differ
OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit"}


def arguments(opened: Opened) -> dict[str, Any]:
    """The arguments of transformers' loop; logging, evaluating and saving are the watch's."""
    d, t = opened.decided, opened.settings.training
    return {
        "output_dir": str(opened.run.path),
        "per_device_train_batch_size": 1,
        "max_steps": d.steps,
        "learning_rate": d.learning_rate,
        "lr_scheduler_type": SCHEDULES.get(t.scheduler, t.scheduler),
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if t.scheduler == "cosine_with_min_lr" else None,
        "warmup_steps": d.warmup_steps,
        "weight_decay": t.weight_decay,
        "max_grad_norm": t.max_grad_norm,
        "optim": OPTIMIZERS.get(d.optim, d.optim),
        "seed": t.seed,
        "fp16": opened.device.fp16,
        "use_cpu": opened.device.device.type == "cpu",
        "ddp_backend": None if opened.ranks.alone or opened.device.device.type == "cuda" else "gloo",
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "log_level": "error",
    }


@contextlib.contextmanager
def watched(
    opened: Opened, callbacks: Iterable[Callback] = (), *, vocabulary: int = 0
) -> Iterator[tuple[Watch, Signals]]:
    """The watch of an opened run while the block runs, and the signals that the loop is entered with.

    Args:
        opened: the run.
        callbacks: called between steps.
        vocabulary: of the model, where the loss is a mean over tokens; 0 otherwise.
    """
    run, settings, found = opened.run, opened.settings, opened.found
    safety, first = settings.safety, opened.ranks.first
    sensor = card_of(opened.device.device) if safety.monitor else None
    guard = HeatGuard(safety.pause_temperature, safety.resume_temperature, safety.abort_temperature)
    tracked = None
    if first:
        tracked = trackers.Trackers(
            settings.tracking.trackers,
            run.run_id,
            run.path,
            settings.to_dict(),
            resume_step=(found.step if found else 0) if opened.resumed else None,
            on_event=run.event,
        )
    recorder = Recorder(run, tracked, opened.tell)
    signals = Signals(recorder.say)
    with _closing(tracked), Monitor(sensor, guard, on_event=recorder.say) as monitor:
        yield (
            watch_of(
                recorder,
                opened.decided,
                signals,
                monitor,
                callbacks=callbacks if first else (),
                fp16=opened.device.fp16,
                vocabulary=vocabulary,
                ranks=opened.ranks,
            ),
            signals,
        )


def train(trainer: Any, opened: Opened, watch: Watch, signals: Signals, begin: Callable[[], None]) -> None:
    """Run the loop from the run's checkpoint, or its beginning; load the weights where nothing is left to do.

    Args:
        trainer: a `transformers.Trainer` that is watched, its `weights` known.
        opened: the run.
        watch: of it.
        signals: heard while it trains.
        begin: called once the optimizer stands; starts the watch.
    """
    found = opened.found
    trainer.add_callback(_Begin(begin))
    if opened.device.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with signals:
        if found is None or found.step < opened.decided.steps:
            trainer.train(resume_from_checkpoint=str(found.path) if found else None)
        else:
            trainer.state = transformers.TrainerState.load_from_json(str(found.path / "trainer_state.json"))
            trainer.weights.load(trainer.model, found.path)
            watch.start(trainer)
            watch.status = "completed"


def evaluators(
    opened: Opened, model: Any, measure: Callable[[], Mapping[str, float]] | None
) -> list[Evaluator]:
    """What is measured at each evaluation: `measure` of the held-out rows, metrics of answers, logged answers."""
    t, found = opened.settings.training, list[Evaluator]()
    if measure is not None:
        found.append(HeldOut(measure))
    if t.eval_metrics:
        found.append(HeldOut(Answered(model, opened.encoder, opened.prepared.heldout_examples, t)))

    def answer(prompt: str) -> str:
        return answers(model, opened.encoder, [prompt], max_new_tokens=64)[0]

    if t.log_prompts and opened.ranks.first:
        found.append(Prompts(t.log_prompts, answer, opened.run.event))
    return found


@contextlib.contextmanager
def _closing(tracked: trackers.Trackers | None) -> Iterator[None]:
    """End the trackers of a run that fails."""
    try:
        yield
    except BaseException:
        if tracked is not None:
            tracked.finish("failed")
        raise


class _Begin(transformers.TrainerCallback):
    """Calls the preflight and the watch once the optimizer stands."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin()
