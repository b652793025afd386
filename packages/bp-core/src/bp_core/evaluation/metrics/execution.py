"""Code that was run: pass@k and the share of tests passed. Running it is `evaluation.code`'s business, and opt-in.

The prediction is what the runs gave: a boolean per sample (pass@k) or per test (pass_rate), one boolean, or
`{"passed": c, "total": n}`. Text is refused: nothing is executed because a metric was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bp_merge.common import BpError

from bp_core.evaluation.metrics.base import BadReferenceError, metric
from bp_core.evaluation.metrics.texts import kind_of


def _counts(prediction: Any) -> tuple[int, int]:
    """How many passed, of how many."""
    if isinstance(prediction, str):
        raise BpError(
            "CONFIG_CODE_NOT_RUN",
            "this metric needs the results of running the answers, and running generated code was not allowed",
            "allow it where the answers may be run (code_exec), or choose another metric",
        )
    if isinstance(prediction, bool):
        return int(prediction), 1
    if isinstance(prediction, Mapping):
        passed, total = prediction.get("passed"), prediction.get("total")
        if type(passed) is int and type(total) is int and 0 <= passed <= total and total > 0:
            return passed, total
    elif isinstance(prediction, list | tuple) and prediction and all(type(p) is bool for p in prediction):
        return sum(prediction), len(prediction)
    raise BadReferenceError(f"expected the results of runs (booleans), not {kind_of(prediction)}")


def estimate_pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that of k samples drawn without replacement from n, c of them right, one is right.

    1 − C(n−c, k) / C(n, k), as the product 1 − ∏ᵢ (1 − k/i) for i from n−c+1 to n, which does not overflow
    (Chen et al., arXiv:2107.03374).

    >>> round(estimate_pass_at_k(5, 2, 2), 3)  # 1 - 3/10
    0.7
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"needs 0 <= c <= n and 1 <= k <= n, not n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@metric("pass_at_k", family="code", source="Chen et al., arXiv:2107.03374")
def pass_at_k(prediction: Any, reference: Any = None, context: Sequence[str] = (), *, k: int = 1) -> float:
    """Mean over the problems of the unbiased estimate of pass@k from n ≥ k samples. The reference is not read.

    Args:
        prediction: a boolean per sample.
        reference: not read.
        context: not read.
        k: samples that one may try.

    Example: 5 samples of which 2 pass, k=2 → 1 − C(3,2)/C(5,2) = 0.7.
    """
    passed, total = _counts(prediction)
    if not 1 <= k <= total:
        raise BadReferenceError(f"pass@{k} needs at least {k} samples per problem, not {total}")
    return estimate_pass_at_k(total, passed, k)


@metric("pass_rate", family="code", source="share of tests passed")
def pass_rate(prediction: Any, reference: Any = None, context: Sequence[str] = ()) -> float:
    """Mean over the rows of the share of tests that the row's code passed. The reference is not read.

    Example: tests passed True, True, False → 0.667.
    """
    passed, total = _counts(prediction)
    return passed / total
