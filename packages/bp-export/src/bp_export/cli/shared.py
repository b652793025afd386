"""What the command modules share."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click
from bp_merge.common import Sink

PATH = click.Path(path_type=Path)
DRY_RUN = click.option("--dry-run", "-n", is_flag=True, help="Only tell what would be done.")
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# A program that mounts a command may leave a function (done, total) under this key of the context's `meta`.
PROGRESS = "bp_export.progress"


def progress_line(sink: Sink) -> Any:
    """A status line with a rate and what is left, at most ten times a second; a mounting program hears it too."""
    from bp_export.formats.estimate import size

    began, last = time.monotonic(), [0.0]
    context = click.get_current_context(silent=True)
    heard = context.meta.get(PROGRESS) if context else None

    def show(done: int, total: int) -> None:
        if heard is not None:
            heard(done, total)
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


def bars_on_terminals_only(sink: Sink) -> None:
    """The Hub's library draws progress bars into logs and into quiet commands unless it is told before its import."""
    if sink.mode != "human" or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
