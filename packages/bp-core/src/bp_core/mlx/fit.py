"""The fitting of an opened run by MLX: the same record, data, watch and checkpoints, mlx-lm's layers under them."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import mlx.core as mx

from bp_core.mlx.adapter import load
from bp_core.mlx.trainer import MlxTrainer, recomputed
from bp_core.training.batch import StepData
from bp_core.training.callbacks import Callback
from bp_core.training.decide import plan_of
from bp_core.training.fit import Fitted
from bp_core.training.loop import arguments, evaluators, watched
from bp_core.training.open import Opened


def fit_by_mlx(opened: Opened, *, callbacks: Iterable[Callback] = ()) -> Fitted:
    """Train an opened run.

    Args:
        opened: by `open_run` or `reopen_run`.
        callbacks: called between steps.

    Raises:
        BpError: `DEP_MLX_UNAVAILABLE` for an architecture that mlx-lm lacks; `RUNTIME_…` where training cannot go on.
    """
    settings, decided, prepared, found = opened.settings, opened.decided, opened.prepared, opened.found
    training = settings.training
    mx.random.seed(training.seed)
    model = load(opened.base.path, decided, opened.device.weights)
    plan = plan_of(decided, prepared)
    with watched(opened, callbacks, vocabulary=model.config.get_text_config().vocab_size) as (watch, signals):
        trainer = MlxTrainer(
            model,
            StepData(prepared.train, plan, decided.steps),
            arguments(opened),
            pad_id=opened.encoder.tokenizer.pad_token_id or 0,
            micro=decided.batch_size,
            buckets=decided.length_buckets,
            watch=watch,
        )
        if settings.model.init_adapter is not None and found is None:
            trainer.weights.load(model, settings.model.init_adapter)

        def begin() -> None:
            if settings.safety.preflight and found is None:
                longest = prepared.train.lengths.argsort()[::-1][: plan.step_size]
                held = prepared.heldout.lengths.argsort()[::-1][: trainer.micro]
                trainer.preflight(
                    [prepared.train.unit(int(i)) for i in longest], prepared.heldout.take(held.tolist())
                )
                peak = {"peak_bytes": mx.get_peak_memory(), "micro_batch": trainer.micro}
                told = "the longest batch ran: forward, backward, evaluation"
                opened.run.event("PREFLIGHT_PASSED", told, **peak)
            sample = prepared.heldout.sample(training.eval_samples, training.seed)
            measure = functools.partial(trainer.evaluate_heldout, sample) if len(sample) else None
            watch.evaluators += evaluators(opened, model, measure)
            watch.start(trainer)

        with signals, recomputed(model, decided.gradient_checkpointing):
            trainer.train(found, begin)
        if found is not None and found.step >= decided.steps:
            watch.status = "completed"
    return Fitted(opened, trainer, watch)
