"""What a part that is asked between two steps may answer: go on, wait and ask again, or stop."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from bp_core.errors import BpError


@dataclasses.dataclass(frozen=True)
class Hold:
    """Wait between two steps and ask again; the run stays alive."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """End the run after this step.

    Args:
        status: that the run gets.
        code: why, for its result.
        save: whether a checkpoint of this step is wanted.
        error: ends the run with it, after the checkpoint.
    """

    status: str
    code: str
    save: bool = True
    error: BpError | None = None


Order = Hold | Stop | None  # None goes on


class Part(Protocol):
    """Asked after every step, and again while another part holds the run."""

    def look(self, step: int) -> Order:
        """What to do before the next step, `step` being the last one done."""
        ...
