"""How a tuned model answers; of `generate`, not of a run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_merge.common import knob


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How a tuned model answers; of `generate`, not of a run."""

    max_new_tokens: Annotated[int, Gt(0), Le(2**24)] = knob(128, "Longest answer.", unit="tokens")
    temperature: Annotated[float, Ge(0), Le(100)] = knob(0.0, "0 takes the most likely token.")
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(0, "Seed of sampling.")
