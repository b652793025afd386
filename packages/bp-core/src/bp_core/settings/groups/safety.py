"""What looks after the run and the card."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob


@dataclasses.dataclass(frozen=True)
class SafetySettings:
    """What looks after the run and the card."""

    oom_recovery: bool = knob(True, "Halve the micro-batch and go on when memory runs out.", group="Safety")
    preflight: bool = knob(True, "Run the longest batch once before training.", group="Safety")
    monitor: bool = knob(True, "Watch temperature, power and memory of the card.", group="Safety")
    pause_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        90.0, "Pause at this temperature.", group="Safety", unit="°C"
    )
    resume_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        80.0, "Go on below this temperature.", group="Safety", unit="°C"
    )
    abort_temperature: Annotated[float, Gt(0), Le(200)] = knob(
        95.0, "Save and stop at this temperature.", group="Safety", unit="°C"
    )
    spike_factor: Annotated[float, Gt(1), Le(1e9)] = knob(
        10.0,
        "Stop where the loss exceeds its running mean by so many standard deviations, for several steps.",
        group="Safety",
    )
    min_free_disk_gb: Annotated[float, Ge(0), Le(1e9)] = knob(
        1.0, "Save and stop below this free disk space.", group="Safety", unit="GB"
    )
    allow_cpu: bool = knob(False, "Train on the CPU even where it would take long.", group="Safety")
    max_cpu_hours: Annotated[float, Gt(0), Le(1e9)] = knob(
        6.0, "Estimated CPU time past which a run without a card is refused.", group="Safety", unit="h"
    )
