"""Running mean: adapters of a sequence, averaged as they come."""

from __future__ import annotations

from bp_merge.lowrank import LowRank, compress, distance, norm, stack
from bp_merge.method import Context, method


@method(
    reference="arXiv:2203.05482 (the mean, one model at a time)",
    formula="D ← D + (w·τᵢ − D)/i, cut to the rank asked for after each step",
    laws=("identity", "idempotent", "gauge"),
)
def running_mean(
    parts: list[LowRank], weights: list[float], context: Context
) -> LowRank | tuple[LowRank, float]:
    """The mean as a sequence that keeps one adapter of the rank asked for; without a rank it is the mean.

    Use it to see what a sequence under a fixed rank gives. With a rank the cuts make it depend on the order;
    what they discard is measured against the mean. Cost: N−1 sums of rank 2r.
    """
    mean = stack(parts, [w / len(parts) for w in weights])
    if context.rank is None:
        return mean
    merged = parts[0] * weights[0]
    for i, (part, weight) in enumerate(zip(parts[1:], weights[1:], strict=True), 2):
        merged = compress(stack([merged, part], [1 - 1 / i, weight / i]), context.rank)[0]
    size = norm(mean)
    return merged, min(1.0, (distance(mean, merged) / size) ** 2) if size else 0.0
