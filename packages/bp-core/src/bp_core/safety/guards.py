"""When to go on, to watch, to pause and to stop: three pure state machines.

- Pure: a guard takes a state and an observation and gives the next state and a verdict. It reads no clock, no card
  and no disk, so every rule is tested without them, and its state travels in a checkpoint.
- A reading that is missing decides nothing: a sensor that falls silent neither pauses nor resumes.
- Heat is judged by temperature alone. Memory that is 99 % full is how a well-sized batch looks, no danger.
- Loss, with x the loss of a step and m, σ the exponentially weighted mean and deviation of the accepted losses
  (weight of the newest a = max(1/n, 1 - decay)):

      d = x - m;  m ← m + a·d;  σ² ← (1 - a)·(σ² + a·d²)
      spike  ⇔  n ≥ warmup  and  x > m + factor · max(σ, 0.05·|m|, 0.001),  or  x > ceiling

  The floor under σ keeps a smooth curve from calling every wiggle a spike. A spike is not averaged in. One spike is
  noted and forgiven (one odd batch), `patience` in a row stop the run: the optimizer has left the valley.
- A loss that is NaN or infinite stops at once, before it is saved over the last good state.
- A gradient that is exactly zero counts like a spike: weights so large that everything after them saturates give a
  finite loss that never moves again.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from bp_core.errors import BpError

Action = Literal["go", "watch", "pause", "stop"]


@dataclass(frozen=True)
class Verdict:
    """What a guard says to one observation.

    Attributes:
        action: go on; go on but record it; pause; save what is good and stop.
        code: the reason, as an event's code; "" with nothing to report.
        message: the cause in one line.
        details: the figures, JSON-able.
        error_code: of the error that a stopped run ends with.
    """

    action: Action
    code: str = ""
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    error_code: str = ""

    def error(self, hint: str) -> BpError:
        """The coded error that ends a stopped run."""
        return BpError(
            self.error_code,
            self.message,
            hint,
            retryable=self.error_code != "RUNTIME_LOSS_NOT_FINITE",
            details=self.details,
        )


GO = Verdict("go")


# ------------------------------------------------------------------------------------------------- loss


@dataclass(frozen=True)
class LossState:
    """What the loss guard remembers; JSON-able by `dataclasses.asdict`, restored by `LossState(**data)`."""

    count: int = 0  # accepted losses
    mean: float = 0.0
    variance: float = 0.0
    spikes: int = 0  # spikes in a row
    overflows: int = 0  # non-finite gradient norms in a row
    last_good: int = 0  # the last step that was no spike and finite


@dataclass(frozen=True)
class LossGuard:
    """Stops a run whose loss left the finite numbers or its own recent level.

    Args:
        factor: deviations above the mean that make a spike.
        patience: spikes in a row that stop.
        warmup: accepted losses before spikes are looked for.
        decay: weight of the past in mean and deviation; 0.98 remembers some 50 steps.
        ceiling: a loss above it is a spike also during warm-up; several times the ln(vocabulary) of pure chance.
        grad_patience: non-finite gradient norms in a row that stop. 1 is right for fp32 and bf16; with fp16 loss
            scaling an overflow is how the scaler finds its scale, and its step is skipped: give 10.
        zero_is_odd: whether a gradient of exactly zero counts like a spike; where answers of a group are all worth the
            same there is none.
    """

    factor: float = 10.0
    patience: int = 5
    warmup: int = 20
    decay: float = 0.98
    grad_patience: int = 1
    ceiling: float = math.inf
    zero_is_odd: bool = True

    def observe(
        self, state: LossState, step: int, loss: float, grad_norm: float | None = None
    ) -> tuple[LossState, Verdict]:
        """Judge one optimizer step.

        >>> guard, state = LossGuard(warmup=2, patience=2), LossState()
        >>> for step, loss in enumerate((2.0, 2.0, 9.0, 9.0), 1):
        ...     state, verdict = guard.observe(state, step, loss)
        >>> verdict.action, verdict.code, state.last_good
        ('stop', 'LOSS_SPIKE', 2)
        """
        if not math.isfinite(loss):
            return state, self._stop(
                "LOSS_NOT_FINITE", f"the loss of step {step} is {loss}", step, loss, state
            )
        if grad_norm is not None and not math.isfinite(grad_norm):
            state = dataclasses.replace(state, overflows=state.overflows + 1)
            text = f"the gradient norm of step {step} is {grad_norm}"
            if state.overflows >= self.grad_patience:
                return state, self._stop("GRADIENT_NOT_FINITE", text, step, loss, state)
            return state, Verdict(
                "watch", "GRADIENT_NOT_FINITE", text, {"step": step, "in_a_row": state.overflows}
            )
        if grad_norm == 0.0 and self.zero_is_odd:
            state = dataclasses.replace(state, spikes=state.spikes + 1, overflows=0)
            text = f"no gradient reaches the weights at step {step}: what they feed is saturated"
            if state.spikes >= self.patience:
                text = f"{text}, {state.spikes} steps in a row"
                return state, self._stop("GRADIENT_ZERO", text, step, loss, state, "RUNTIME_GRADIENT_ZERO")
            return state, Verdict("watch", "GRADIENT_ZERO", text, {"step": step, "in_a_row": state.spikes})
        limit = self.limit(state)
        if (state.count >= self.warmup and loss > limit) or loss > self.ceiling:
            state = dataclasses.replace(state, spikes=state.spikes + 1, overflows=0)
            text = f"the loss of step {step} is {loss:.4g}, its recent level {state.mean:.4g} (limit {limit:.4g})"
            if state.spikes >= self.patience:
                text = f"{text}, {state.spikes} steps in a row"
                return state, self._stop("LOSS_SPIKE", text, step, loss, state, "RUNTIME_LOSS_SPIKE")
            details = {
                "step": step,
                "loss": loss,
                "mean": state.mean,
                "limit": limit,
                "in_a_row": state.spikes,
            }
            return state, Verdict("watch", "LOSS_SPIKE", text, details)
        weight = max(1 / (state.count + 1), 1 - self.decay)
        off = loss - state.mean
        return (
            LossState(
                count=state.count + 1,
                mean=state.mean + weight * off,
                variance=(1 - weight) * (state.variance + weight * off * off),
                last_good=step,
            ),
            GO,
        )

    def limit(self, state: LossState) -> float:
        """The loss above which a step is a spike."""
        return state.mean + self.factor * max(math.sqrt(state.variance), 0.05 * abs(state.mean), 1e-3)

    @staticmethod
    def _stop(
        code: str, text: str, step: int, loss: float, state: LossState, error: str = "RUNTIME_LOSS_NOT_FINITE"
    ) -> Verdict:
        details = {"step": step, "loss": loss, "mean": state.mean, "last_good": state.last_good}
        return Verdict("stop", code, f"{text}; last good step: {state.last_good}", details, error)


# ------------------------------------------------------------------------------------------------- heat


@dataclass(frozen=True)
class HeatState:
    """What the heat guard remembers. Times are seconds of any steady clock."""

    paused_since: float | None = None
    emergencies: int = 0  # readings in a row at or above the emergency temperature
    aborted: bool = False


@dataclass(frozen=True)
class HeatGuard:
    """Pauses a hot card, resumes a cooled one, gives up where it does not cool. Degrees Celsius.

        reading >= pause                     pause (at the next step)
        reading <  resume, while paused      go on; between the two the state stays as it is
        reading >= abort, twice in a row     save and stop (one such reading pauses: it may be a glitch)
        paused longer than max_pause         save and stop

    Raises:
        BpError: `CONFIG_INVALID_SETTING` unless resume < pause < abort.
    """

    pause: float = 90.0
    resume: float = 80.0
    abort: float = 95.0
    max_pause: float = 1800.0  # seconds
    confirm: int = 2  # readings in a row that make an emergency

    def __post_init__(self) -> None:
        if not self.resume < self.pause < self.abort:
            raise BpError(
                "CONFIG_INVALID_SETTING",
                f"temperatures must rise: resume {self.resume:g} < pause {self.pause:g} < abort {self.abort:g} °C",
                "add --resume-temperature 80 --pause-temperature 90 --abort-temperature 95 to the command",
            )

    def observe(self, state: HeatState, now: float, temperature: float | None) -> tuple[HeatState, Verdict]:
        """Judge one reading; None is a sensor that gave none."""
        if state.aborted:
            return state, Verdict("stop", error_code="RUNTIME_GPU_TEMPERATURE_CRITICAL")
        paused = state.paused_since
        if temperature is not None:
            hot = temperature >= self.abort
            state = dataclasses.replace(state, emergencies=state.emergencies + 1 if hot else 0)
            if state.emergencies >= self.confirm:
                return self._abort(state, "HEAT_EMERGENCY", f"the card is at {temperature:g} °C", temperature)
            if paused is None and temperature >= self.pause:
                details = {"temperature": temperature, "pause_at": self.pause}
                text = f"paused: the card is at {temperature:g} °C (limit {self.pause:g})"
                return dataclasses.replace(state, paused_since=now), Verdict(
                    "pause", "HEAT_PAUSED", text, details
                )
            if paused is not None and temperature < self.resume:
                details = {"temperature": temperature, "resume_below": self.resume, "seconds": now - paused}
                text = f"going on: the card cooled to {temperature:g} °C after {now - paused:.0f} s"
                return dataclasses.replace(state, paused_since=None), Verdict(
                    "go", "HEAT_RESUMED", text, details
                )
        if paused is None:
            return state, GO
        if now - paused > self.max_pause:
            text = f"the card did not cool below {self.resume:g} °C within {self.max_pause:g} s"
            return self._abort(state, "HEAT_NOT_COOLING", text, temperature)
        return state, Verdict("pause")

    @staticmethod
    def _abort(
        state: HeatState, code: str, text: str, temperature: float | None
    ) -> tuple[HeatState, Verdict]:
        verdict = Verdict(
            "stop", code, text, {"temperature": temperature}, "RUNTIME_GPU_TEMPERATURE_CRITICAL"
        )
        return dataclasses.replace(state, aborted=True), verdict


# ------------------------------------------------------------------------------------------------- disk


@dataclass(frozen=True)
class DiskGuard:
    """Stops before the disk is full, while there is still room to save.

    Args:
        min_free: bytes under which the run is saved and stopped.
    """

    min_free: float = 1e9

    def observe(self, free: float | None, *, next_save: float = 0.0) -> Verdict:
        """Judge the free bytes; `next_save` is the size of the checkpoint that is written next.

        Stops where free < min_free + next_save (the save itself must still fit above the limit), warns where it
        is less than twice that.
        """
        if free is None:
            return GO
        needed = self.min_free + next_save
        details = {"free_bytes": int(free), "needed_bytes": int(needed)}
        text = f"{free / 1e9:.2f} GB of disk are free, {needed / 1e9:.2f} GB are to stay free"
        if free < needed:
            return Verdict("stop", "DISK_LOW", text, details, "RUNTIME_DISK_FULL")
        return Verdict("watch", "DISK_LOW", text, details) if free < 2 * needed else GO
