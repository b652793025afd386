"""What looks after a run, once a step: metrics, guards, requests, evaluation, checkpoints, callbacks.

- `before_update` sees loss and gradient norm before the weights move; a stop there leaves the last good state.
- `after_step` decides in a fixed order: record, obey (signals, control rows, heat, disk), evaluate, save, stop.
- A first SIGINT or SIGTERM saves and stops; a second one stops now.
- A pause holds the loop between two steps; the run stays alive and answers requests.
- A callback that raises is switched off and told; it never ends a run.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from bp_core.encoding.tokens import Tokens
from bp_core.models.generators import generators_kept
from bp_core.runs.trackers import Trackers
from bp_core.safety.guards import DiskGuard, LossGuard, LossState
from bp_core.safety.monitor import Monitor
from bp_core.settings.knobs import Settings
from bp_core.training import checkpoint
from bp_core.training.callbacks import Callback, StepInfo

if TYPE_CHECKING:
    from bp_core.runs.writer import Run
    from bp_core.training.step import StepTrainer

DISK_EVERY = 20  # steps between looks at the free disk
FP16_OVERFLOWS = 10  # non-finite gradients in a row that fp16 loss scaling may meet while it finds its scale


class Watch:
    """Looks after one run.

    Args:
        run: the record.
        settings: of the run.
        steps: optimizer steps that the run shall have.
        heldout: held-out pieces, may be empty.
        callbacks: of the user.
        monitor: watches the card's heat; one without a sensor always says go.
        trackers: get every number too, or None.
        answer: prompt → greedy answer, for `log_prompts`.
        fp16: whether loss scaling is on.
        tell: shows the user what they should know while it runs.
        vocabulary: of the model; a loss far above ln of it is a spike from the first step on. 0 is unknown.

    Attributes:
        status: how the run stands: running, completed, stopped, interrupted.
        best: (held-out loss, step) of the best evaluation.
        losses: held-out losses by step.
        stop_code: why it ended early, "" otherwise.
    """

    def __init__(
        self,
        run: Run,
        settings: Settings,
        steps: int,
        heldout: Tokens,
        *,
        callbacks: Iterable[Callback] = (),
        monitor: Monitor,
        trackers: Trackers | None = None,
        answer: Callable[[str], str] | None = None,
        fp16: bool = False,
        vocabulary: int = 0,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.run, self.settings, self.steps, self.tell = run, settings, steps, tell
        self.heldout_is(heldout)
        self.callbacks = list(callbacks)
        self.monitor, self.trackers, self.answer = monitor, trackers, answer
        training, safety = settings.training, settings.safety
        self.eval_every = _every(training.eval_steps, steps, 5)
        self.save_every = _every(training.save_steps, steps, 5)
        self.root = run.path / "checkpoints"
        self.status, self.stop_code = "running", ""
        self.best: tuple[float, int] | None = None
        self.losses: dict[int, float] = {}
        self._since_best = 0
        self._loss_guard = LossGuard(
            factor=safety.spike_factor,
            grad_patience=FP16_OVERFLOWS if fp16 else 1,
            ceiling=4 * math.log(vocabulary) if vocabulary > 1 else math.inf,
        )
        self._loss_state = LossState()
        self._disk_guard = DiskGuard(safety.min_free_disk_gb * 1e9)
        self._checkpoint_bytes = 0.0
        self._signals = 0
        self._handlers: dict[int, Any] = {}
        self._last: tuple[float, float] = (0.0, 0.0)
        self._clock = time.perf_counter()
        self.tokens = 0
        self.seconds = 0.0
        self.steps_done = 0
        self.preflight = False

    # ----------------------------------------------------------------------------------------- signals

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            raise KeyboardInterrupt
        self._tell("STOP_REQUESTED", "interrupted: saving and stopping after this step; once more stops now")

    def _record(self, step: int, **values: float) -> None:
        self.run.metric(step, **values)
        if self.trackers is not None:
            self.trackers.log(step, values)

    def _tell(self, code: str, message: str, **details: Any) -> None:
        self.run.event(code, message, **details)  # which logs it as well
        self.tell(message)

    def heldout_is(self, tokens: Tokens) -> None:
        """Evaluate on these held-out units, or the sample of them that the settings ask for."""
        self.heldout = tokens.sample(self.settings.training.eval_samples, self.settings.training.seed)

    # ------------------------------------------------------------------------------------------ events

    def start(self, trainer: StepTrainer) -> None:
        """Called once the optimizer stands and, on resume, the state is loaded."""
        memories: Any = trainer.state.stateful_callbacks  # a dict, whatever its declaration says
        state_file = memories.get("watch") if trainer.state.global_step else None
        if state_file:
            self._restore(state_file)
        self._call("on_start", self.run.run_id, self.steps)
        if trainer.state.global_step == 0 and len(self.heldout):
            self._evaluate(trainer, 0)
        self._clock = time.perf_counter()

    def shrunk(self, step: int, before: int, after: int) -> None:
        """The micro-batch was halved."""
        phase = "before training" if self.preflight else f"at step {step}"
        self._tell(
            "OOM_RECOVERED",
            f"out of memory {phase}: {before} → {after} examples per pass",
            step=step,
            before=before,
            after=after,
        )

    def before_update(self, trainer: StepTrainer, step: int, loss: float, grad_norm: float) -> None:
        """Judge a step before it reaches the weights.

        Raises:
            BpError: `RUNTIME_LOSS_NOT_FINITE`, `RUNTIME_LOSS_SPIKE`.
        """
        self._last = (loss, grad_norm)
        self._loss_state, verdict = self._loss_guard.observe(self._loss_state, step, loss, grad_norm)
        if verdict.action == "watch":
            self._tell(verdict.code, verdict.message, **verdict.details)
        if verdict.action == "stop":
            self._tell(verdict.code, verdict.message, **verdict.details)
            error = verdict.error(
                "add --lr 1e-4 to the command  (a lower learning rate), or look at the rows of that step"
            )
            error.details["run_id"] = self.run.run_id
            raise error

    def after_step(self, trainer: StepTrainer, learning_rate: float) -> None:
        """Everything that happens between two optimizer steps."""
        step = trainer.state.global_step
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        loss, norm = self._last
        tokens = trainer.step_tokens
        self.tokens += tokens
        self.seconds += elapsed
        self.steps_done += 1
        rate = tokens / elapsed if elapsed else 0.0
        self._record(
            step,
            loss=loss,
            grad_norm=norm,
            learning_rate=learning_rate,
            tokens=tokens,
            tokens_per_second=rate,
            **trainer.metrics,
            **self.monitor.metrics(),
        )
        self.run.heartbeat(step)

        save = self._obey(trainer, step)
        last = step >= self.steps
        heldout = None
        if len(self.heldout) and (last or (self.eval_every and step % self.eval_every == 0)):
            heldout = self._evaluate(trainer, step)
        self._call(
            "on_step",
            StepInfo(self.run.run_id, step, self.steps, loss, norm, learning_rate, tokens, rate, heldout),
        )
        if last and self.status == "running":
            self.status = "completed"
        best_now = training_keeps_best(self.settings) and self.best is not None and self.best[1] == step
        if last or save or best_now or (self.save_every and step % self.save_every == 0):
            self.save_now(trainer)
        if self.status != "running":
            trainer.control.should_training_stop = True
        self._clock = time.perf_counter()  # evaluating, saving and pausing are not training time

    def _obey(self, trainer: StepTrainer, step: int) -> bool:
        """Signals, requests, heat and disk; True where a checkpoint must be written."""
        if self._signals:
            self._end("interrupted", "SIGNAL")
            return True
        paused = held = False
        while True:
            action = self.run.control()
            if action in ("stop", "stop-and-save"):
                self._end("stopped", "CONTROL_STOP")
                return action == "stop-and-save"
            paused = action == "pause" or (paused and action != "resume")
            heat = self.monitor.action
            if heat == "stop":
                self.save_now(trainer)
                raise self.monitor.verdict.error(
                    f"let the card cool, then: backprop resume {self.run.run_id}{self.run.store.flag}"
                )
            if not paused and heat != "pause":
                break
            if self._signals:
                self._end("interrupted", "SIGNAL")
                return True
            if not held:
                self.run.paused(True)
                held = True
            time.sleep(0.2)
        if held:
            self.run.paused(False)
        if step % DISK_EVERY == 0:
            verdict = self._disk_guard.observe(
                shutil.disk_usage(self.run.path).free, next_save=self._checkpoint_bytes
            )
            if verdict.action != "go":
                self._tell(verdict.code, verdict.message, **verdict.details)
            if verdict.action == "stop":
                self.save_now(trainer)
                raise verdict.error(
                    f"make room, then: backprop resume {self.run.run_id}{self.run.store.flag}"
                )
        return False

    def _end(self, status: str, code: str) -> None:
        self.status, self.stop_code = status, code

    # ------------------------------------------------------------------------------ evaluate and save

    @generators_kept()
    def _evaluate(self, trainer: StepTrainer, step: int) -> float:
        values = trainer.evaluate_heldout(self.heldout)
        loss = values.pop("loss")
        self.losses[step] = loss
        self._record(step, heldout_loss=loss, **{f"heldout_{name}": value for name, value in values.items()})
        if self.best is None or loss < self.best[0]:
            self.best, self._since_best = (loss, step), 0
        else:
            self._since_best += 1
            if (
                self.settings.training.patience
                and self._since_best >= self.settings.training.patience
                and self.status == "running"
            ):
                self._tell(
                    "EARLY_STOPPED",
                    f"no better held-out loss since step {self.best[1]}",
                    step=step,
                    best=self.best[0],
                )
                self._end("completed", "EARLY_STOPPED")
        for prompt in self.settings.training.log_prompts:
            if self.answer is not None:
                self.run.event("SAMPLE_GENERATED", self.answer(prompt), prompt=prompt, step=step)
        self._call("on_evaluate", step, loss)
        return loss

    def save_now(self, trainer: StepTrainer) -> Path:
        """Write a checkpoint of the current step and apply the retention policy; returns its folder."""
        memories: Any = trainer.state.stateful_callbacks
        memories["watch"] = self._memory()
        training = self.settings.training
        saved = trainer.save_checkpoint(
            self.root, run_id=self.run.run_id, heldout_loss=self.losses.get(trainer.state.global_step)
        )
        self._checkpoint_bytes = float(saved.size)
        best = sorted((loss, step) for step, loss in self.losses.items() if step)[: training.keep_best]
        limit = None if training.max_checkpoint_gb is None else training.max_checkpoint_gb * 1e9
        checkpoint.retain(
            self.root, last=training.keep_last, best=[step for _, step in best], max_bytes=limit
        )
        self.run.artifact("checkpoint", saved.path, step=saved.step, bytes=saved.size)
        self._call("on_save", saved.step, saved.path)
        return saved.path

    def _memory(self) -> dict[str, Any]:
        return {
            "losses": {str(k): v for k, v in self.losses.items()},
            "best": self.best,
            "since_best": self._since_best,
            "loss_state": dataclasses.asdict(self._loss_state),
            "last": self._last,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }

    def _restore(self, memory: dict[str, Any]) -> None:
        self.losses = {int(k): v for k, v in memory["losses"].items()}
        self.best = tuple(memory["best"]) if memory["best"] else None
        self._since_best = memory["since_best"]
        self._loss_state = LossState(**memory["loss_state"])
        self._last = tuple(memory.get("last", self._last))
        self.tokens, self.seconds = memory.get("tokens", 0), memory.get("seconds", 0.0)

    # --------------------------------------------------------------------------------------- callbacks

    def _call(self, name: str, *args: Any) -> None:
        for callback in list(self.callbacks):
            try:
                getattr(callback, name)(*args)
            except Exception as error:  # noqa: BLE001 - a user's callback; told, switched off, and the run goes on
                self.callbacks.remove(callback)
                self._tell(
                    "CALLBACK_FAILED",
                    f"{type(callback).__name__}.{name}: {error}; it is switched off",
                    callback=type(callback).__name__,
                )

    @property
    def last_loss(self) -> float:
        """Mean loss per label of the newest step."""
        return self._last[0]

    def finished(self, status: str) -> None:
        """Tell the callbacks that training ended."""
        self._call("on_end", self.run.run_id, status)


def training_keeps_best(settings: Settings) -> bool:
    """Whether the best weights, not the last, become the adapter."""
    return settings.training.keep == "best"


def _every(asked: int | None, steps: int, parts: int) -> int:
    """Steps between two actions: as asked, or such that there are about `parts` of them."""
    return max(1, round(steps / parts)) if asked is None else asked
