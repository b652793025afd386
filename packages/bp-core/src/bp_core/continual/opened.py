"""What a session works with, but the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bp_export.adapter.base import ResolvedBase

from bp_core.continual.tasks import Task
from bp_core.encoding.encode import Encoder
from bp_core.encoding.tokens import Tokens
from bp_core.models.device import Device
from bp_core.runs.writer import Run
from bp_core.settings.knobs import Settings


@dataclasses.dataclass
class OpenedSession:
    """A recorded session with all that it works with but the weights.

    Args:
        run: its record.
        settings: of the session and its runs, as resolved.
        tasks: what is learnt.
        gate: rows of `eval_heldout`, or None.
        device: in use.
        base: the base model.
        encoder: of its tokenizer.
        tell: shows a line to the user.
    """

    run: Run
    settings: Settings
    tasks: list[Task]
    gate: Tokens | None
    device: Device
    base: ResolvedBase
    encoder: Encoder
    tell: Callable[[str], None]
