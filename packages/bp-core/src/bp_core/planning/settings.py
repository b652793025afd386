"""What `plan` is asked."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Gt, Le
from bp_merge.common import knob, like

from bp_core.memory.settings import EstimateSettings
from bp_core.settings.tables import METHODS


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What is to be planned; what is left out is chosen."""

    vram_gb: Annotated[float, Gt(0), Le(512)] | None = like(EstimateSettings, "vram_gb")
    model: str | None = knob(
        None, "Base model that shall be taken. Default: the largest of the shortlist that fits.", group="Run"
    )
    method: str | None = knob(
        None, "Training method that shall be taken. Default: by the rows.", group="Run", choices=METHODS
    )
    task: str | None = knob(
        None,
        "What the model is for. Default: by the rows.",
        group="Run",
        choices=("chat", "code", "reasoning"),
    )
    licence: str = knob(
        "any",
        "Licences that the base may have: any, or open (apache-2.0 and mit).",
        group="Run",
        choices=("any", "open"),
    )
