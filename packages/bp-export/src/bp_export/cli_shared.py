"""What the command modules share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink

PATH = click.Path(path_type=Path)
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def progress_line(sink: Sink) -> Any:
    """A status line with a rate and what is left, at most ten times a second."""
    from .plan import size

    began, last = time.monotonic(), [0.0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if now - last[0] < 0.1 and done < total:
            return
        last[0] = now
        rate = done / max(now - began, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if rate > 0 and done < total else ""
        sink.progress(
            f"{size(done)} of {size(total)} ({size(int(rate))}/s{left})" + ("\n" if done >= total else "")
        )

    return show
