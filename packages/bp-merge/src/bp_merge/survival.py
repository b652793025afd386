"""Rounding a changed weight once, and how much of the change is left.

- Below rms Δ / rms W ≈ 3e-3 rounding to bf16 eats more than a tenth of a change: that is told.
- What does not fit the target, or was no number before, is an error that names the tensor.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from bp_merge.casts import from_f32
from bp_merge.common import BpError

SMALL_CHANGE = 3e-3  # rms Δ / rms W under which rounding to bf16 eats more than a tenth of the change


@dataclasses.dataclass(frozen=True)
class Survival:
    """How much of a change is left after rounding.

    Attributes:
        kept: ‖Q(W+Δ)−Q(W)‖ / ‖Δ‖; above 1 where rounding noise is larger than the change.
        coefficient: ⟨Q(W+Δ)−W, Δ⟩ / ‖Δ‖², the part of the change that arrives.
        ratio: rms Δ / rms W.
    """

    kept: float | None
    coefficient: float | None
    ratio: float | None

    @classmethod
    def of(cls, sums: np.ndarray) -> Survival:
        """From Σ Δ², Σ (Q−Q(W))², Σ (Q−W)·Δ and Σ W²."""
        delta, moved, dot, weight = (float(x) for x in sums)
        if delta == 0:
            return cls(None, None, 0.0 if weight else None)
        return cls(math.sqrt(moved / delta), dot / delta, math.sqrt(delta / weight) if weight else None)


def rounded(values: np.ndarray, kind: str, name: str) -> np.ndarray:
    """f32 values rounded once to `kind`, all of them finite.

    Raises:
        BpError: `INPUT_NOT_FINITE` where a value was NaN or infinite before, `RUNTIME_OVERFLOW` where `kind` cannot
            hold it.
    """
    with np.errstate(over="ignore"):
        written = from_f32(values, kind)
    if kind == "F16":
        fine = not np.any((written.view(np.uint16) & np.uint16(0x7C00)) == 0x7C00)
    else:
        low, high = (values.min(), values.max()) if values.size else (np.float32(0), np.float32(0))
        fine = bool(np.isfinite(low) and np.isfinite(high))
    if fine:
        return written
    if not np.isfinite(values).all():
        raise BpError(
            "INPUT_NOT_FINITE",
            f"{name} has NaN or infinite values",
            "merge from a checkpoint that was saved before training diverged",
            details={"tensor": name},
        )
    raise BpError(
        "RUNTIME_OVERFLOW",
        f"{name} has values up to {np.abs(values).max():.4g}, {kind.lower()} ends at 65504",
        "run it again with --dtype bf16 or --dtype f32",
        details={"tensor": name},
    )


def warnings_of(overall: Survival, kind: str) -> list[str]:
    """What the user should know of a change rounded to `kind`."""
    if overall.coefficient is None or overall.ratio is None or kind not in ("BF16", "F16"):
        return []
    limit = SMALL_CHANGE if kind == "BF16" else SMALL_CHANGE / 8
    if overall.ratio >= limit:
        return []
    return [
        f"the change is small (rms {overall.ratio:.1e} of the weights): {kind.lower()} keeps "
        f"{max(0.0, overall.coefficient):.0%} of it; --dtype f32 keeps all, or serve the adapter beside the base"
    ]
