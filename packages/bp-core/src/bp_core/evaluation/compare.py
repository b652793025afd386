"""A figure's interval, and the paired difference of two models on the same rows.

- Rows are resampled, never texts: `reduce(weights @ stats)` gives any metric's figure on a resample (`metrics.base`).
- `auto` chooses what covers from 100 rows on: for one model Wilson's interval of 0/1 values, else the BCa bootstrap; for
  two, Bonett and Price's interval of 0/1 values, else their idea in a bootstrap (`padded`). Each names its method.
- Why padded: of two models that differ in few rows, a plain bootstrap is far too narrow (4 rows of 200, by chance: 12
  false alarms in 100 where 5 are meant). Two rows are added, one up and one down by the size of a
  typical change, r² = Σd⁴/Σd²; with 0/1 values this is Bonett and Price's. d is a row's difference, or, where the figure is
  no mean, its jackknife pseudo-value.
- Two models are compared on the same rows, matched by id; rows that only one of them has are an error, not a smaller set.
- The seed fixes the resamples: the same scores give the same interval.
- Under 100 rows an interval is wide and its coverage not promised; `size_warning` says so.

Sources: Wilson 1927; Bonett & Price 2012, doi:10.3102/1076998611411915; Efron 1987 (BCa), doi:10.2307/2289144.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from bp_merge.common import BpError

from bp_core.evaluation.metrics.base import Array, Scores

Method = Literal["auto", "wilson", "bonett-price", "padded", "percentile", "bca"]
ENOUGH = 100  # rows from which an interval's coverage is promised
RESAMPLES = 2000
_CELLS = 2_000_000  # numbers drawn at a time
_NORMAL = NormalDist()


@dataclasses.dataclass(frozen=True)
class Interval:
    """Bounds of a figure.

    Args:
        low: lower bound; NaN where there are fewer than two rows.
        high: upper bound.
        level: share of such intervals that hold the true figure.
        method: how it was found.
    """

    low: float
    high: float
    level: float
    method: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Args:
        metric: name.
        better: `higher` or `lower`: which direction is better.
        n: rows.
        baseline: figure of the first model.
        candidate: figure of the second.
        delta: candidate − baseline, in the metric's unit.
        interval: of delta.
        improved: ids of the rows that got better, the largest change first.
        worsened: ids of the rows that got worse, the largest change first.
        detectable: the smallest change that n rows would show in four of five tries, at this variance.
    """

    metric: str
    better: str
    n: int
    baseline: float
    candidate: float
    delta: float
    interval: Interval
    improved: tuple[str, ...]
    worsened: tuple[str, ...]
    detectable: float

    @property
    def gain(self) -> float:
        """Delta with the sign that makes a gain positive."""
        return self.delta if self.better == "higher" else -self.delta


def size_warning(n: int) -> str:
    """What to tell about a set of n rows; empty from 100 rows on."""
    if n >= ENOUGH:
        return ""
    return f"{n} rows are few: intervals are wide, and only large differences show (100 or more are better)"


def _sums(stats: Array, resamples: int, seed: int) -> Array:
    """Summed statistics (resamples, k) of rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    n, k = stats.shape
    kinds, counts = np.unique(stats, axis=0, return_counts=True)
    if len(kinds) * 4 <= n:  # few distinct rows: drawing how often each came is the same, and cheaper
        return rng.multinomial(n, counts / n, size=resamples) @ kinds
    out = np.empty((resamples, k))
    step = max(1, _CELLS // (n * k))
    for start in range(0, resamples, step):
        drawn = rng.integers(0, n, size=(min(step, resamples - start), n))
        for column in range(k):
            out[start : start + len(drawn), column] = stats[:, column][drawn].sum(axis=1)
    return out


def _bootstrap(
    stats: Array, figure: Callable[[Array], Array], level: float, method: str, resamples: int, seed: int
) -> tuple[Interval, float]:
    """The interval of `figure(sum of stats)`, and its standard error."""
    drawn = figure(_sums(stats, resamples, seed))
    tail = (1 - level) / 2
    lower, upper = tail, 1 - tail
    if method == "bca":
        total = stats.sum(axis=0)
        value, left_out = float(figure(total)), figure(total - stats)
        below = float((drawn < value).mean() + (drawn == value).mean() / 2)
        apart = left_out.mean() - left_out
        spread = float((apart**2).sum())
        if not 0 < below < 1 or spread <= 0:
            method = "percentile"
        else:
            bias, bend = _NORMAL.inv_cdf(below), float((apart**3).sum()) / (6 * spread**1.5)

            def moved(share: float) -> float:
                z = bias + _NORMAL.inv_cdf(share)
                return _NORMAL.cdf(bias + z / (1 - bend * z)) if bend * z < 1 else float(share > 0.5)

            lower, upper = moved(lower), moved(upper)
    low, high = np.quantile(drawn, [lower, upper])
    return Interval(float(low), float(high), level, method), float(drawn.std())


def wilson(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    >>> i = wilson(90, 100)
    >>> round(i.low, 3), round(i.high, 3)
    (0.826, 0.945)
    """
    z = _NORMAL.inv_cdf((1 + level) / 2)
    share, bottom = successes / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / bottom
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / bottom
    return Interval(max(0.0, middle - half), min(1.0, middle + half), level, "wilson")


def bonett_price(gained: int, lost: int, n: int, level: float = 0.95) -> tuple[Interval, float]:
    """The interval of a paired difference of shares, (gained − lost)/n, and its standard error.

    One row is added to each of `gained` and `lost`, so that few changed rows do not give a narrow interval.

    >>> i, _ = bonett_price(5, 15, 200)
    >>> round(i.low, 3), round(i.high, 3)
    (-0.095, -0.005)
    """
    z = _NORMAL.inv_cdf((1 + level) / 2)
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    error = math.sqrt(max(0.0, up + down - (up - down) ** 2) / (n + 2))
    middle = up - down
    return Interval(max(-1.0, middle - z * error), min(1.0, middle + z * error), level, "bonett-price"), error


def _padded(d: Array, level: float, resamples: int, seed: int) -> tuple[Interval, float]:
    """The interval of the mean of d, with a row up and a row down added; see the module's head."""
    squares = float((d**2).sum())
    size = math.sqrt(float((d**4).sum()) / squares) if squares > 0 else 0.0
    padded, mean_of = _column(np.concatenate([d, [size, -size]]))
    found, error = _bootstrap(padded, mean_of, level, "percentile", resamples, seed)
    return dataclasses.replace(found, method="padded"), error


def _pseudo_values(stats: Array, figure: Callable[[Array], Array]) -> Array:
    """What each row adds to the figure (jackknife), with the figure as their mean."""
    total = stats.sum(axis=0)
    left_out = figure(total - stats)
    return (len(stats) - 1) * (left_out.mean() - left_out) + figure(total)


def _column(values: Array) -> tuple[Array, Callable[[Array], Array]]:
    """The values, and their sum to their mean (that the jackknife's n is one less is a factor that BCa does not see)."""
    n = len(values)
    return values.reshape(n, 1), lambda sums: sums[..., 0] / n


def _binary(scores: Scores) -> bool:
    return scores.is_mean and bool(np.isin(scores.values, (0.0, 1.0)).all())


def _check(level: float, resamples: int, method: str, allowed: Sequence[str]) -> None:
    if not 0.5 <= level < 1:
        raise ValueError(f"level must be in [0.5, 1), not {level}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, not {resamples}")
    if method not in allowed:
        raise ValueError(f"method must be one of {', '.join(allowed)}, not {method!r}")


def interval(
    scores: Scores,
    *,
    level: float = 0.95,
    method: Method = "auto",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The confidence interval of a metric's figure.

    Args:
        scores: of one model.
        level: share of such intervals that hold the true figure.
        method: `auto`, `wilson` (0/1 values), `percentile` or `bca`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: an argument is outside its bounds, or `wilson` is asked for values that are not 0 or 1.
    """
    _check(level, resamples, method, ("auto", "wilson", "percentile", "bca"))
    n, binary = len(scores.stats), _binary(scores)
    if n < 2:
        return Interval(float("nan"), float("nan"), level, "none")
    if method == "wilson" and not binary:
        raise ValueError("wilson is for values that are 0 or 1")
    if method == "wilson" or (method == "auto" and binary):
        return wilson(float(scores.values.sum()), n, level)
    chosen = "bca" if method == "auto" else method
    stats, figure = _column(scores.values) if scores.is_mean else (scores.stats, scores.reduce)
    return _bootstrap(stats, figure, level, chosen, resamples, seed)[0]


def _paired(baseline: Scores, candidate: Scores) -> Scores:
    """The candidate with its rows in the baseline's order."""
    if baseline.metric != candidate.metric:
        raise ValueError(f"{baseline.metric} and {candidate.metric} cannot be compared")
    for scores in (baseline, candidate):
        if len(set(scores.ids)) != len(scores.ids):
            raise BpError(
                "INPUT_EVAL_NOT_PAIRED",
                f"an id stands twice among the rows of {scores.metric}",
                "evaluate both models on one set whose rows have ids of their own",
            )
    where = {id_: i for i, id_ in enumerate(candidate.ids)}
    if where.keys() != set(baseline.ids):
        alone, other = set(baseline.ids) - where.keys(), where.keys() - set(baseline.ids)
        raise BpError(
            "INPUT_EVAL_NOT_PAIRED",
            f"the two models were not evaluated on the same rows: {len(alone)} rows only of the baseline, "
            f"{len(other)} only of the candidate",
            "evaluate both models on the same set",
            details={"only_baseline": sorted(alone)[:10], "only_candidate": sorted(other)[:10]},
        )
    order = [where[id_] for id_ in baseline.ids]
    if candidate.stats.shape[1] != baseline.stats.shape[1]:
        raise BpError(
            "INPUT_EVAL_NOT_PAIRED",
            f"the references of {baseline.metric} differ between the two evaluations",
            "evaluate both models on the same set",
        )
    return dataclasses.replace(candidate, ids=baseline.ids, stats=candidate.stats[order])


def compare(
    baseline: Scores,
    candidate: Scores,
    *,
    level: float = 0.95,
    method: Method = "auto",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """The paired difference of two models on the same rows.

    Args:
        baseline: scores of the first model.
        candidate: scores of the second, on the same rows (any order).
        level: of the interval.
        method: `auto`, `bonett-price` (0/1 values), `padded`, `percentile` or `bca`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        BpError: `INPUT_EVAL_NOT_PAIRED` where the rows are not the same.
        ValueError: an argument is outside its bounds.

    Example: 200 rows, 15 right answers lost and 5 gained → delta −0.05, interval about (−0.095, −0.004).
    """
    _check(level, resamples, method, ("auto", "bonett-price", "padded", "percentile", "bca"))
    candidate = _paired(baseline, candidate)
    n = len(baseline.ids)
    change = candidate.values - baseline.values if n else np.zeros(0)
    gain = change if baseline.better == "higher" else -change
    order = np.argsort(-np.abs(gain), kind="stable")
    binary = _binary(baseline) and _binary(candidate)
    if method == "bonett-price" and not binary:
        raise ValueError("bonett-price is for values that are 0 or 1")
    if n < 2:
        found, error = Interval(float("nan"), float("nan"), level, "none"), float("nan")
    elif method == "bonett-price" or (method == "auto" and binary):
        found, error = bonett_price(int((change > 0).sum()), int((change < 0).sum()), n, level)
    else:
        means = baseline.is_mean and candidate.is_mean
        stats, figure = _column(change) if means else _joint(baseline, candidate)
        if method in ("auto", "padded"):
            d = change if means else _pseudo_values(stats, figure)
            found, error = _padded(d, level, resamples, seed)
        else:
            found, error = _bootstrap(stats, figure, level, method, resamples, seed)
    needed = _NORMAL.inv_cdf((1 + level) / 2) + _NORMAL.inv_cdf(0.8)
    return Comparison(
        metric=baseline.metric,
        better=baseline.better,
        n=n,
        baseline=baseline.value,
        candidate=candidate.value,
        delta=candidate.value - baseline.value,
        interval=found,
        improved=tuple(baseline.ids[i] for i in order if gain[i] > 0),
        worsened=tuple(baseline.ids[i] for i in order if gain[i] < 0),
        detectable=needed * error,
    )


def _joint(baseline: Scores, candidate: Scores) -> tuple[Array, Callable[[Array], Array]]:
    """Statistics of both models side by side, and the difference of their figures."""
    k = baseline.stats.shape[1]

    def figure(sums: Any) -> Array:
        return candidate.reduce(sums[..., k:]) - baseline.reduce(sums[..., :k])

    return np.hstack([baseline.stats, candidate.stats]), figure
