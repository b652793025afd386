"""A merge method of a third party: every adapter is brought to the median norm before the sum.

Install the package beside bp-merge, then:

    bp-merge merge A B C --method median_norm --param power=0.5 --output merged
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from bp_merge.lowrank import LowRank, norm, stack
from bp_merge.method import Context, method


@method(
    reference="an example",
    formula="Σ wᵢ·ΔWᵢ·(median‖ΔW‖ / ‖ΔWᵢ‖)^power, wᵢ = 1/n",
    laws=("identity", "idempotent", "gauge", "symmetric"),
    default_weight=lambda n: 1 / n,
)
def median_norm(
    parts: list[LowRank],
    weights: list[float],
    context: Context,
    *,
    power: Annotated[float, Ge(0), Le(1)] = 1.0,
) -> LowRank:
    """No adapter outweighs the others because it was trained longer. The bounds of `power` are checked by bp-merge."""
    sizes = [norm(p) for p in parts]
    middle = float(np.median(sizes))
    factors = [w * (middle / s) ** power if s else 0.0 for w, s in zip(weights, sizes, strict=True)]
    return stack(parts, factors)
