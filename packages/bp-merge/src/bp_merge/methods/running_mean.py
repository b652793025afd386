"""Running mean: adapters of a sequence, averaged as they come."""

from __future__ import annotations

from bp_merge.lowrank import LowRank, compress, stack
from bp_merge.method import Context, method


@method(
    reference="arXiv:2203.05482 (the mean, one model at a time)",
    formula="D ← D + (w·τᵢ − D)/i, cut to the rank asked for after each step",
    laws=("identity", "idempotent", "gauge"),
)
def running_mean(parts: list[LowRank], weights: list[float], context: Context) -> LowRank:
    """The mean without keeping all adapters. With a rank the cuts make it depend on the order; without, it does not."""
    merged = parts[0] * weights[0]
    for i, (part, weight) in enumerate(zip(parts[1:], weights[1:], strict=True), 2):
        merged = compress(stack([merged, part], [1 - 1 / i, weight / i]), context.rank)[0]
    return merged
