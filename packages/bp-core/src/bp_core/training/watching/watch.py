"""What looks after a run, once a step: it asks its parts in a fixed order and knows none of their business.

- `before_update` sees loss and gradient norm before the weights move; a stop there leaves the last good state.
- `after_step`: record, obey (the parts in their order), evaluate, tell the callbacks, save, stop.
- A pause holds the loop between two steps; the run stays alive and answers requests.
- What it remembers travels in the trainer's own state, so that a resumed run judges as if it had not stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.models.generators import generators_kept
from bp_core.training.callbacks import StepInfo
from bp_core.training.watching.best import Best
from bp_core.training.watching.evaluators import LOSS, Evaluator
from bp_core.training.watching.keeper import Keeper
from bp_core.training.watching.listeners import Listeners
from bp_core.training.watching.losses import Losses
from bp_core.training.watching.orders import Part, Stop
from bp_core.training.watching.pace import Pace
from bp_core.training.watching.protocols import Watched
from bp_core.training.watching.recorder import Recorder

HOLD_SECONDS = 0.2  # between two questions while a part holds the run


class Watch:
    """Looks after one run (a `Watching`).

    Args:
        recorder: keeps numbers and events.
        steps: optimizer steps that the run shall have.
        losses: judges each step before its update.
        parts: asked after each step, in this order; the first that says stop is obeyed.
        best: keeps the held-out losses.
        evaluate_every: steps between two evaluations; 0 only at the start and the end.
        keeper: writes checkpoints.
        listeners: told of everything.
        gauges: further numbers of each step, as the card's temperature.
        boundary: steps between two states that a checkpoint can hold; a run stops and saves only there.

    Attributes:
        evaluators: asked at each evaluation, in order; join them before `start`, like further parts.
        status: how the run stands: running, completed, stopped, interrupted.
        stop_code: why it ended early, "" otherwise.
        pace: tokens and seconds.
        preflight: whether what happens now happens before training.
    """

    def __init__(
        self,
        recorder: Recorder,
        steps: int,
        *,
        losses: Losses,
        parts: Sequence[Part],
        best: Best,
        evaluate_every: int,
        keeper: Keeper,
        listeners: Listeners,
        gauges: Callable[[], Mapping[str, float]] = dict,
        boundary: int = 1,
    ) -> None:
        self.recorder, self.steps, self.losses, self.parts = recorder, steps, losses, list(parts)
        self.best, self.evaluate_every, self.keeper = best, evaluate_every, keeper
        self.listeners, self.gauges, self.boundary = listeners, gauges, boundary
        self.evaluators: list[Evaluator] = []
        self.status, self.stop_code = "running", ""
        self.pace = Pace()
        self.preflight = False
        self._done, self._owed = -1, False

    def start(self, trainer: Watched) -> None:
        """Called once the optimizer stands and, on resume, the state is loaded."""
        memory = trainer.state.stateful_callbacks.get("watch") if trainer.state.global_step else None
        if memory:
            for part in (self.best, self.losses, self.pace):
                part.restore(memory)
        self.listeners.call("on_start", self.recorder.run.run_id, self.steps)
        if trainer.state.global_step == 0 and self.evaluators:
            self._evaluate(0)
        self.pace.begin()

    def shrunk(self, step: int, before: int, after: int) -> None:
        """The micro-batch was halved."""
        phase = "before training" if self.preflight else f"at step {step}"
        message = (
            f"out of memory {phase}: {before} → {after} examples per pass; the step is the same one, and not bit for bit "
            f"what {before} give"
        )
        self.recorder.say("OOM_RECOVERED", message, step=step, before=before, after=after)

    def before_update(self, step: int, loss: float, grad_norm: float) -> None:
        """Judge a step before it reaches the weights.

        Raises:
            BpError: `RUNTIME_LOSS_NOT_FINITE`, `RUNTIME_LOSS_SPIKE`, `RUNTIME_GRADIENT_ZERO`.
        """
        self.losses.judge(step, loss, grad_norm)

    def after_step(self, trainer: Watched, learning_rate: float) -> None:
        """Everything that happens between two optimizer steps; a second call for the same step does nothing."""
        step = trainer.state.global_step
        if step == self._done:  # loops log once more when they end
            return
        self._done = step
        tokens = trainer.step_tokens
        rate = self.pace.step(tokens)
        loss, norm = self.losses.last
        run = self.recorder.run
        self.recorder.values(
            step,
            loss=loss,
            grad_norm=norm,
            learning_rate=learning_rate,
            tokens=tokens,
            tokens_per_second=rate,
            **trainer.metrics,
            **self.gauges(),
        )
        run.heartbeat(step)
        whole = step % self.boundary == 0
        save = whole and self._obey(trainer, step)
        last = step >= self.steps
        heldout = None
        if self.evaluators and (last or (self.evaluate_every and step % self.evaluate_every == 0)):
            heldout = self._evaluate(step)
        self.listeners.call(
            "on_step",
            StepInfo(run.run_id, step, self.steps, loss, norm, learning_rate, tokens, rate, heldout),
        )
        if last and self.status == "running":
            self.status = "completed"
        self._owed = self._owed or self.keeper.due(step, self.best)
        if last or (whole and (save or self._owed)):
            self.save_now(trainer)
            self._owed = False
        if self.status != "running":
            trainer.control.should_training_stop = True
        self.pace.begin()

    def _obey(self, trainer: Watched, step: int) -> bool:
        """Ask the parts until none holds the run; True where a checkpoint must be written."""
        held = False
        while True:
            hold = False
            for part in self.parts:
                order = part.look(step)
                if isinstance(order, Stop):
                    return self._stop(trainer, order)
                hold = hold or order is not None
            if not hold:
                break
            if not held:
                self.recorder.run.paused(True)
                held = True
            time.sleep(HOLD_SECONDS)
        if held:
            self.recorder.run.paused(False)
        return False

    def _stop(self, trainer: Watched, order: Stop) -> bool:
        if order.error is not None:
            self.save_now(trainer)
            raise order.error
        self.status, self.stop_code = order.status, order.code
        return order.save

    @generators_kept()
    def _evaluate(self, step: int) -> float | None:
        """Ask the evaluators; the held-out loss, where one of them measures it."""
        loss = None
        for evaluator in self.evaluators:
            values = evaluator(step)
            if values:
                self.recorder.values(step, **values)
            if LOSS in values:
                loss = values[LOSS]
                self.best.losses[step] = loss
            if self.best.by in values:
                self._judge(step, values[self.best.by])
        if loss is not None:
            self.listeners.call("on_evaluate", step, loss)
        return loss

    def _judge(self, step: int, value: float) -> None:
        if not self.best.observe(step, value) or self.status != "running" or self.best.best is None:
            return
        best, since = self.best.best
        message = f"no better {self.best.by} since step {since}"
        self.recorder.say("EARLY_STOPPED", message, step=step, best=best)
        self.status, self.stop_code = "completed", "EARLY_STOPPED"

    def save_now(self, trainer: Watched) -> Path:
        """Write a checkpoint of the current step and apply the retention policy; returns its folder."""
        trainer.state.stateful_callbacks["watch"] = self._memory()
        run, loss = self.recorder.run, self.best.losses.get(trainer.state.global_step)
        saved = self.keeper.save(trainer, self.best, run_id=run.run_id, heldout_loss=loss)
        run.artifact("checkpoint", saved.path, step=saved.step, bytes=saved.size)
        self.listeners.call("on_save", saved.step, saved.path)
        return saved.path

    def _memory(self) -> dict[str, Any]:
        return {**self.best.memory(), **self.losses.memory(), **self.pace.memory()}

    def finished(self, status: str) -> None:
        """Tell the callbacks that training ended."""
        self.listeners.call("on_end", self.recorder.run.run_id, status)
