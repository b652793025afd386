"""A watch on the card while a run goes on: read at most once a second in a thread, ask its state at each step.

- The thread only looks and decides (`guards.HeatGuard`); the training loop asks `action` between steps and acts:
  pausing means to wait between two steps, so no kernel is cut and nothing is lost.
- Memory, power and utilization are shown and recorded; only temperature decides.
- A card that stops answering never stops a run: after three failures in a row the watch ends, with an event. A run
  that is paused for heat at that moment stays paused until the guard's limit stops it, for nobody knows it cooled.
- Figures are kept as last, peak and mean, in constant memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from bp_core.errors import BpError
from bp_core.safety.guards import GO, Action, HeatGuard, HeatState, Verdict
from bp_core.safety.sensors import Reading, Sensor

FAILURES = 3  # in a row, after which the card counts as silent


class Monitor:
    """Watches one card until closed; a context manager.

    Args:
        sensor: of the card; None (no card) gives a monitor that always says go.
        guard: the temperatures.
        interval: seconds between readings, at least 1.
        on_event: called as `on_event(code, message, **details)`, from the thread, for `HEAT_PAUSED`, `HEAT_RESUMED`,
            `HEAT_EMERGENCY`, `HEAT_NOT_COOLING`, `GPU_MONITORING_LOST` (`Run.event` fits).
        clock: a steady clock in seconds.

    Attributes:
        latest: the last reading, None before the first.
        peak_temperature: °C. peak_power: watts. peak_memory: bytes.
        paused_seconds: time spent paused for heat so far.
    """

    def __init__(
        self,
        sensor: Sensor | None,
        guard: HeatGuard | None = None,
        *,
        interval: float = 1.0,
        on_event: Callable[..., Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sensor = sensor
        self.guard = guard or HeatGuard()
        self.interval = max(1.0, interval)
        self.latest: Reading | None = None
        self.peak_temperature: float | None = None
        self.peak_power: float | None = None
        self.peak_memory: int | None = None
        self.paused_seconds = 0.0
        self._on_event = on_event or (lambda *_, **__: None)
        self._clock = clock
        self._state = HeatState()
        self._verdict = GO
        self._failures = 0
        self._lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def action(self) -> Action:
        """What the loop is to do before its next step: go, pause or stop."""
        return self._verdict.action

    @property
    def verdict(self) -> Verdict:
        """The verdict behind a pause or a stop; `verdict.error(hint)` is the error to end with."""
        return self._verdict

    def start(self) -> Monitor:
        """Take a first reading now, then read in a thread."""
        self.check()
        if self.sensor is not None and self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="bp-monitor", daemon=True)
            self._thread.start()
        return self

    def check(self) -> Verdict:
        """Take one reading and judge it; what the thread does once an interval."""
        reading = None
        if self.sensor is not None and not self._lost:
            try:
                reading = self.sensor.read()
                self._failures = 0
            except BpError as error:
                self._failures += 1
                if self._failures >= FAILURES:
                    self._lost = True
                    self._on_event("GPU_MONITORING_LOST", error.message, source=self.sensor.source)
        if reading is not None:
            self.latest = reading
            self.peak_temperature = _top(self.peak_temperature, reading.temperature)
            self.peak_power = _top(self.peak_power, reading.power)
            self.peak_memory = _top(self.peak_memory, reading.memory_used)
        paused = self._state.paused_since
        now = self._clock()
        self._state, verdict = self.guard.observe(
            self._state, now, None if reading is None else reading.temperature
        )
        if paused is not None and self._state.paused_since is None:
            self.paused_seconds += now - paused
        if verdict.code:
            self._on_event(verdict.code, verdict.message, **verdict.details)
        if verdict.code or verdict.action != self._verdict.action:  # a repeated verdict keeps its first cause
            self._verdict = verdict
        return self._verdict

    def metrics(self) -> dict[str, float]:
        """The last reading as metrics: `gpu/temperature` (°C), `gpu/power` (W), `gpu/memory` (GB), `gpu/utilization` (%)."""
        r = self.latest
        if r is None:
            return {}
        values = {
            "gpu/temperature": r.temperature,
            "gpu/power": r.power,
            "gpu/memory": None if r.memory_used is None else r.memory_used / 1e9,
            "gpu/utilization": r.utilization,
        }
        return {name: float(value) for name, value in values.items() if value is not None}

    def close(self) -> None:
        """End the thread and give the sensor back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None
        if self.sensor is not None:
            sensor, self.sensor = self.sensor, None
            try:
                sensor.close()
            except BpError as error:
                self._on_event("GPU_MONITORING_LOST", error.message, source=sensor.source)

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loop(self) -> None:
        while not self._stop.wait(self.interval):
            self.check()


def _top(peak: Any, value: Any) -> Any:
    return peak if value is None else value if peak is None else max(peak, value)
