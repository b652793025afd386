"""Held-out loss as a metric: nats per token over the whole set, lower is better, compared like any other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bp_core.evaluation.metrics.base import Array, Scores, ratio


def per_token(stats: Array) -> Array:
    """(sum of nats, tokens) → nats per token."""
    return ratio(stats[..., 0], stats[..., 1], empty=float("nan"))


def heldout_loss(ids: Sequence[str], nats: Sequence[float], tokens: Sequence[int]) -> Scores:
    """The loss of a set: Σ nats / Σ tokens, so that a long row counts for its tokens. Range [0, ∞), lower is better.

    Args:
        ids: of the rows, in order.
        nats: each row's summed negative log-likelihood over its labelled tokens.
        tokens: each row's number of labelled tokens.

    Example: rows of 2 tokens with 1.0 nats and 8 tokens with 2.0 nats → 3/10 = 0.3 nats per token.
    """
    stats = np.column_stack([np.asarray(nats, dtype=np.float64), np.asarray(tokens, dtype=np.float64)])
    if not np.isfinite(stats).all() or (stats[:, 1] <= 0).any():
        raise ValueError("every row needs a finite loss and at least one token")
    return Scores("loss", tuple(ids), stats, per_token, "lower")
