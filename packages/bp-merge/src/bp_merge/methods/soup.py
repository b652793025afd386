"""Model soups: the uniform mean, and the greedy choice of what goes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bp_merge.lowrank import LowRank, stack
from bp_merge.method import Context, method

if TYPE_CHECKING:
    from bp_merge.adapter import Adapter


@method(
    reference="arXiv:2203.05482",
    formula="Σ τᵢ/n",
    laws=("identity", "idempotent", "gauge", "symmetric", "linear"),
    default_weight=lambda n: 1 / n,
)
def soup(parts: list[LowRank], weights: list[float], context: Context) -> LowRank:
    """The uniform soup: runs of one task, averaged.

    Use it for runs of one task with other seeds or settings; `greedy_soup` leaves out those that do not help.
    Cost: that of the sum, 4(m+n)R² operations for R = Σrᵢ.
    """
    return stack(parts, weights)


def greedy_soup(
    adapters: Sequence[Adapter], scorer: Callable[[Adapter], float], *, rank: int | None = None
) -> tuple[Adapter, list[int]]:
    """Add adapters from the best down, and keep each that does not lower the score of the mean.

    Args:
        adapters: candidates of one task.
        scorer: higher is better; called once per candidate and once per trial.
        rank: of the result; None loses nothing.

    Returns:
        The soup, and the indices of its ingredients in the order they were added.

    Raises:
        ValueError: without candidates.
    """
    from bp_merge.engine import merge

    if not adapters:
        raise ValueError("there is no adapter to choose from")
    scores = [scorer(a) for a in adapters]
    order = sorted(range(len(adapters)), key=lambda i: (-scores[i], i))
    chosen, best = [order[0]], scores[order[0]]
    current = merge([adapters[order[0]]], "soup", rank=rank).adapter
    for i in order[1:]:
        trial = merge([adapters[j] for j in (*chosen, i)], "soup", rank=rank).adapter
        score = scorer(trial)
        if score >= best:
            chosen.append(i)
            current, best = trial, score
    return current, chosen
