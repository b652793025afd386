"""Who writes new rows, how many, and what they may cost; of `data synthesize`, not of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le
from bp_data.split_settings import SplitSettings
from bp_merge.common import knob, like

ADDRESS = "TEACHER_MODEL_API_URL"


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """Who writes new rows, how many, and what they may cost."""

    rows: Annotated[int, Gt(0), Le(1_000_000)] = knob(100, "Rows to make.", flags=("-n",))
    url: str | None = knob(
        None, f"Root of the teacher's OpenAI-compatible endpoint, …/v1; {ADDRESS} unless given."
    )
    model: str | None = knob(None, "Name of the teacher there.", flags=("-m",))
    key_env: str | None = knob(
        None, "Environment variable that holds the endpoint's key; none is sent unless given."
    )
    about: str | None = knob(None, "What the new rows are about, or how they differ, in words.")
    per_request: Annotated[int, Gt(0), Le(100)] = knob(5, "Rows asked for at a time.")
    shown: Annotated[int, Gt(0), Le(100)] = knob(3, "Rows of the dataset shown each time.")
    temperature: Annotated[float, Ge(0), Le(100)] = knob(1.0, "0 takes the teacher's likeliest words.")
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = knob(0, "Which rows are shown, and the teacher's seed.")
    dup_threshold: Annotated[float, Ge(0.3), Le(1)] = like(
        SplitSettings, "dup_threshold", help="Jaccard similarity of a near-duplicate.", group=""
    )
    max_calls: Annotated[int, Gt(0)] = knob(1000, "Requests at most.")
    max_tokens: Annotated[int, Gt(0)] = knob(1_000_000, "Tokens in and out at most.", unit="tokens")
    cache: Path | None = knob(None, "File that keeps the answers; beside the output unless given.")
    timeout: Annotated[float, Gt(0)] = knob(120.0, "Longest wait for one answer.", unit="s")
