"""What a metric is: a pure function over one case, and how the cases make one figure.

- Every metric gives one vector of sufficient statistics per example and a `reduce` from their sum to the figure: a mean
  is (value, 1), micro F1 is (true positives, predicted, expected), BLEU is its n-gram counts. So the figure of any
  resample is `reduce(weights @ stats)`, and intervals need no second pass over the texts (`evaluation.compare`).
- A prediction comes from a model: whatever it is (None, no JSON, 10 MB of brackets), it scores, at worst as wrong.
- A reference comes from the user: one of the wrong shape is refused with its row, as a silent 0 would blame the model.
- What cannot be scored in bounded time or memory raises `UnscoredError`: the row counts as wrong, and the reason is told.
- The options of a metric are the keyword-only parameters of its function; nothing is declared twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bp_merge.common import BpError

Array = np.ndarray[Any, np.dtype[np.float64]]
Reduce = Callable[[Array], Array]  # (..., k) summed statistics to (...) figures


class UnscoredError(Exception):
    """A case that cannot be scored, through no fault of the reference; counts as the worst value, and is told."""


class BadReferenceError(ValueError):
    """A reference whose shape the metric does not take; becomes a coded error that names the row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One answer to score.

    Args:
        prediction: what the model gave, usually text; None where it gave nothing.
        reference: what was expected, shaped as the metric says; a list of texts means that any of them will do.
        context: the passages that a RAG answer was to be drawn from.
        id: stable within a set; pairs the answers of two models.
    """

    prediction: Any
    reference: Any = None
    context: Sequence[str] = ()
    id: str = ""


@dataclasses.dataclass(frozen=True)
class Scores:
    """A metric over a set of cases.

    Args:
        metric: its name.
        ids: of the cases, in order.
        stats: sufficient statistics, shape (n, k).
        reduce: from summed statistics (..., k) to figures (...).
        better: `higher` or `lower`.
        details: JSON-able facts for people: per-class tables, misses, …
        unscored: reason → number of rows that count as wrong for it.
    """

    metric: str
    ids: tuple[str, ...]
    stats: Array
    reduce: Reduce
    better: str = "higher"
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    unscored: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def value(self) -> float:
        """The figure over the whole set; NaN where the set is empty."""
        return float(self.reduce(self.stats.sum(axis=0))) if len(self.stats) else float("nan")

    @property
    def values(self) -> Array:
        """The figure of each example alone, shape (n,)."""
        return np.asarray(self.reduce(self.stats), dtype=np.float64)

    @property
    def is_mean(self) -> bool:
        """Whether the figure is the plain mean of the examples' values."""
        return self.reduce is mean


def ratio(top: Array, bottom: Array, empty: float = 0.0) -> Array:
    """`top / bottom`, and `empty` where the bottom is 0."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.where(bottom == 0, empty, top / np.where(bottom == 0, 1.0, bottom))


def mean(stats: Array) -> Array:
    """(sum of values, number of values) → mean."""
    return ratio(stats[..., 0], stats[..., 1])


def f1_of_counts(stats: Array) -> Array:
    """(true positives, predicted, expected) → F1 = 2·tp / (predicted + expected); 1 where nothing was to be found and nothing was."""
    return ratio(2 * stats[..., 0], stats[..., 1] + stats[..., 2], empty=1.0)


def precision_of_counts(stats: Array) -> Array:
    """(true positives, predicted, expected) → precision; without a prediction 1 where nothing was expected, else 0."""
    return np.where(
        stats[..., 1] == 0, np.where(stats[..., 2] == 0, 1.0, 0.0), ratio(stats[..., 0], stats[..., 1])
    )


def recall_of_counts(stats: Array) -> Array:
    """(true positives, predicted, expected) → recall; without anything expected 1 where nothing was predicted, else 0."""
    return np.where(
        stats[..., 2] == 0, np.where(stats[..., 1] == 0, 1.0, 0.0), ratio(stats[..., 0], stats[..., 2])
    )


# A row's function returns a number (the metric is their mean) or a vector of statistics (with `reduce`).
RowFunction = Callable[..., Any]
SetDetails = Callable[[Sequence[Case]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric: the row function, what its figure means, and how rows make a figure.

    Args:
        name: under which users ask for it.
        family: the file it stands in.
        function: (prediction, reference, context, **options) → number, or vector of statistics.
        source: paper or program that defines it.
        low: the lowest possible value.
        high: the highest possible value (infinite where unbounded).
        better: `higher` or `lower`.
        reduce: None for the mean of the rows' numbers.
        details: facts over all cases, for people.
        prepare: (cases) → keyword arguments that every row needs of the whole set (the classes).
        reducer: (prepared) → reduce, where it depends on the set.
        options: keyword arguments fixed by the user.
    """

    name: str
    family: str
    function: RowFunction
    source: str
    low: float = 0.0
    high: float = 1.0
    better: str = "higher"
    reduce: Reduce | None = None
    details: SetDetails | None = None
    prepare: Callable[[Sequence[Case]], Mapping[str, Any]] | None = None
    reducer: Callable[[Mapping[str, Any]], Reduce] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, prediction: Any, reference: Any = None, context: Sequence[str] = ()) -> float:
        """The value of one case."""
        return float(self.score([Case(prediction, reference, context)]).values[0])

    @property
    def parameters(self) -> dict[str, Any]:
        """The options with their defaults."""
        return {
            p.name: p.default
            for p in inspect.signature(self.function).parameters.values()
            if p.kind is p.KEYWORD_ONLY and not p.name.startswith("_")
        }

    def configured(self, options: Mapping[str, Any]) -> Metric:
        """The metric with options of the user.

        Raises:
            BpError: `INPUT_METRIC_UNKNOWN` for an option that it does not have.
        """
        for name in options:
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, 1)
                raise BpError(
                    "INPUT_METRIC_UNKNOWN",
                    f"the metric {self.name} has no option {name!r}"
                    + (f"; did you mean {near[0]!r}?" if near else ""),
                    f"its options: {', '.join(self.parameters) or 'none'}",
                )
        return dataclasses.replace(self, options={**self.options, **options})

    def score(self, cases: Sequence[Case]) -> Scores:
        """Score every case.

        Raises:
            BpError: `INPUT_REFERENCE_INVALID` where a reference has not the shape that the metric takes.
        """
        extra = dict(self.prepare(cases)) if self.prepare else {}
        reduce = self.reducer(extra) if self.reducer else self.reduce or mean
        rows: list[Any] = []
        unscored: Counter[str] = Counter()
        for number, case in enumerate(cases):
            try:
                got = self.function(case.prediction, case.reference, case.context, **self.options, **extra)
            except UnscoredError as error:
                unscored[str(error)] += 1
                got = None
            except BadReferenceError as error:
                raise BpError(
                    "INPUT_REFERENCE_INVALID",
                    f"the reference of row {case.id or number + 1} does not suit the metric {self.name}: {error}",
                    "correct the row, or choose the metric that fits the task",
                    details={"row": number, "id": case.id, "metric": self.name},
                ) from error
            rows.append(got)
        stats = self._table(rows, reduce, cases, extra)
        ids = tuple(case.id or str(number) for number, case in enumerate(cases))
        details = dict(self.details(cases)) if self.details and cases else {}
        return Scores(self.name, ids, stats, reduce, self.better, details, dict(unscored))

    def _table(
        self, rows: list[Any], reduce: Reduce, cases: Sequence[Case], extra: Mapping[str, Any]
    ) -> Array:
        if reduce is mean:
            worst = self.low if self.better == "higher" else self.high
            values = [float(worst) if row is None else float(row) for row in rows]
            return np.column_stack([np.asarray(values, dtype=np.float64).reshape(-1), np.ones(len(values))])
        for number, row in enumerate(rows):
            if row is None:  # as if the model had said nothing
                case = cases[number]
                rows[number] = self.function("", case.reference, case.context, **self.options, **extra)
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)


REGISTRY: dict[str, Metric] = {}


def metric(name: str, *, family: str, source: str, **facts: Any) -> Callable[[RowFunction], RowFunction]:
    """Enter a row function into the registry under a name."""

    def enter(function: RowFunction) -> RowFunction:
        REGISTRY[name] = Metric(name, family, function, source, **facts)
        return function

    return enter
