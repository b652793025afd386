"""The progress of a training: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys

from bp_core.training.callbacks import Callback, StepInfo
from bp_merge.common import Sink


class Progress(Callback):
    """A line that moves on a terminal, a line per tenth elsewhere, nothing in quiet mode; all on stderr."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.moving = sink.mode == "human" and sys.stderr.isatty()
        self._tenth = -1
        self._tokens = self._seconds = 0.0

    def on_step(self, info: StepInfo) -> None:
        """Show where the run stands; the first step, which warms up, is left out of the estimate."""
        if info.step > 1 and info.tokens_per_second:
            self._tokens += info.tokens
            self._seconds += info.tokens / info.tokens_per_second
        rate = self._tokens / self._seconds if self._seconds else 0.0
        left = (info.steps - info.step) * (self._seconds / max(1, info.step - 1))
        done = info.step / max(1, info.steps)
        if self.moving:
            bar = "━" * round(24 * done) + "─" * (24 - round(24 * done))
            self.sink.progress(
                f"{bar} {info.step}/{info.steps}  loss {info.loss:.3f}  {rate:,.0f} tokens/s  {_left(left)} left"
            )
            if info.step == info.steps:
                sys.stderr.write("\n")
        elif int(done * 10) > self._tenth:
            self._tenth = int(done * 10)
            held = "" if info.heldout_loss is None else f"  held-out {info.heldout_loss:.3f}"
            self.sink.note(f"step {info.step}/{info.steps}  loss {info.loss:.3f}{held}  {rate:,.0f} tokens/s")


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
