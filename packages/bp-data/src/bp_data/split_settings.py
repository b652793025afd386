"""The settings of `split`, light: what other commands and training take over from them loads no numpy."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from bp_data.common import knob

DEFAULT_THRESHOLD = 0.8


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """How `split` divides rows."""

    ratio: Annotated[float, Gt(0), Lt(1)] = knob(
        0.1, "Share of the rows to hold out; at least one row stays on each side.", flags=("--heldout-ratio",)
    )
    seed: Annotated[int, Ge(0)] = knob(0, "Seed of the order in which groups are held out.")
    dup_threshold: Annotated[float, Ge(0.3), Le(1)] | None = knob(
        DEFAULT_THRESHOLD, "Similarity from which two rows must stay on one side."
    )
    shingle: str = knob("auto", "What similarity compares.", choices=("auto", "word", "char"))
    group_by: str = knob(
        "", "Field of the row whose equal values stay together; id-prefix joins abc_0, abc_1, …", unit="field"
    )
    stratify: str = knob(
        "auto", "Keep shares alike: auto (source, kind, label), none, or a field of the row."
    )
