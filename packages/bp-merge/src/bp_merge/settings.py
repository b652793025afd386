"""The settings of `merge`, `models`, `bake` and `slao`: one field each, from which keyword, flag and page are read.

A method's own parameters are no fields: they are the keyword-only arguments of its function (`bp_merge.method`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from bp_merge.common import knob, like

# number types that can be asked for, torch's names too → safetensors' names
TARGETS = {"bf16": "BF16", "f16": "F16", "f32": "F32", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}
VARIANTS = ("paper", "delta")


@dataclass(frozen=True)
class MergeSettings:
    """How adapters are merged, beside the method's own parameters."""

    method: str = knob("task_arithmetic", "Name of the method.")
    weights: tuple[float, ...] | None = knob(
        None, "One number for each, with commas, used as given; the method's own unless given."
    )
    seed: int = knob(0, "Seed of random masks.")
    rank: Annotated[int, Ge(1)] | None = knob(
        None, "The most rank of the result; what the sum needs unless given."
    )
    energy: Annotated[float, Gt(0), Le(1)] | None = knob(
        None, "Instead: the least rank that keeps this fraction of the energy."
    )
    moments: tuple[Path, ...] = knob((), "Input moments, one file per adapter.", whole=True)
    missing: str = knob("error", "What a module that an adapter lacks is.", choices=("error", "zero"))


@dataclass(frozen=True)
class ModelsSettings:
    """How full models are merged, beside the method's own parameters."""

    method: str = like(MergeSettings, "method")
    weights: tuple[float, ...] | None = like(MergeSettings, "weights")
    seed: int = like(MergeSettings, "seed")
    dtype: str | None = knob(None, "Number type; the base's unless given.", choices=tuple(TARGETS))


@dataclass(frozen=True)
class BakeSettings:
    """How adapters are added to a model's weights."""

    dtype: str | None = like(ModelsSettings, "dtype")
    weights: tuple[float, ...] | None = like(
        MergeSettings, "weights", help="One number per adapter, with commas; 1 each unless given."
    )  # in Python beside each adapter
    untie: bool = knob(False, "Give a tied output head a tensor of its own where one side changes.")


@dataclass(frozen=True)
class SlaoSettings:
    """How the next task of a sequence is merged into its state."""

    variant: str | None = knob(
        None, "Of a new state, paper unless given; a state keeps its own.", choices=VARIANTS
    )
    schedule: str = knob("sqrt", "sqrt, linear, log or a constant.", keywords=("weight",))
    min_cosine: float | None = knob(None, "Leave the task out below this cosine to the merged change.")
