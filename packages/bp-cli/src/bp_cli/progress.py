"""The progress of a training: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys

from bp_core.training.callbacks import Callback, StepInfo
from bp_merge.common import Sink


class Progress(Callback):
    """A line that moves on a terminal, a line per tenth elsewhere, nothing in quiet mode; all on stderr.

    The first step that this process makes warms up (kernels are chosen, memory is asked for): speed and the time left
    are those of the others.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("BP_NO_PROGRESS"))
        self.moving = sink.mode == "human" and sys.stderr.isatty() and not dumb
        self._tenth = -1
        self._warm = False
        self._steps = 0
        self._tokens = self._seconds = 0.0

    def on_start(self, run_id: str, steps: int) -> None:
        """A run begins; of a session's runs the later ones are warm already."""
        self._tenth = -1

    def on_step(self, info: StepInfo) -> None:
        """Show where the run stands."""
        if self._warm and info.tokens_per_second:
            self._steps += 1
            self._tokens += info.tokens
            self._seconds += info.tokens / info.tokens_per_second
        self._warm = True
        rate = f"  {self._tokens / self._seconds:,.0f} tokens/s" if self._seconds else ""
        left = (info.steps - info.step) * self._seconds / self._steps if self._steps else None
        done = info.step / max(1, info.steps)
        if self.moving:
            bar = "━" * round(24 * done) + "─" * (24 - round(24 * done))
            time = "" if left is None else f"  {_clock(left)} left"
            line = f"{bar} {info.step}/{info.steps}  loss {info.loss:.3f}{rate}{time}"
            self.sink.progress(line[: shutil.get_terminal_size().columns - 1])
            if info.step == info.steps:
                sys.stderr.write("\n")
        elif int(done * 10) > self._tenth:
            self._tenth = int(done * 10)
            held = "" if info.heldout_loss is None else f"  held-out {info.heldout_loss:.3f}"
            self.sink.note(f"step {info.step}/{info.steps}  loss {info.loss:.3f}{held}{rate}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
