"""Two runs side by side: what was different in the asking, and what was different in the outcome.

- Only what differs is listed; what is equal is said once, as a count.
- A difference that may explain the outcome (data, base model, seed, versions, card) stands beside the settings.
- Curves are compared at the steps that both runs have, so that a longer run is not judged by its extra steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bp_core.runs.store import RunStore
from bp_core.runs.trackers import flat
from bp_core.support.environment import differences
from bp_core.support.files import plain

_LABELS = {"ref": "base model", "revision": "base revision", "config_sha256": "base configuration"}


@dataclass(frozen=True)
class MetricDiff:
    """One metric of both runs: last and lowest values, and the mean difference b - a over common steps."""

    last: tuple[float | None, float | None]
    lowest: tuple[float | None, float | None]
    mean_difference: float | None
    common_steps: int


@dataclass(frozen=True)
class RunDiff:
    """How run `b` differs from run `a`.

    Attributes:
        runs: the two ids.
        settings: key → (a, b) of the settings that differ, by dotted key; a missing one is None.
        same_settings: how many are equal.
        inputs: what else went in differently, one line each.
        environment: versions, card, system, one line each.
        outcome: key → (a, b) of status and result figures that differ.
        metrics: by name, for metrics that either run has.
    """

    runs: tuple[str, str]
    settings: dict[str, tuple[Any, Any]]
    same_settings: int
    inputs: list[str]
    environment: list[str]
    outcome: dict[str, tuple[Any, Any]]
    metrics: dict[str, MetricDiff]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able data."""
        return plain(self)


def diff(store: RunStore, a: str, b: str) -> RunDiff:
    """Compare two runs of one store, by id or prefix.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`.
    """
    one, two = store.trained(a), store.trained(b)
    left, right = flat(one.config), flat(two.config)
    changed = {k: (left.get(k), right.get(k)) for k in sorted({*left, *right}) if left.get(k) != right.get(k)}
    inputs = []
    if one.dataset.get("fingerprint") != two.dataset.get("fingerprint"):
        counts = [r.dataset.get("accepted", "?") for r in (one, two)]
        inputs.append(f"dataset: other content ({counts[0]} → {counts[1]} rows accepted)")
    for key, label in _LABELS.items():
        old, new = one.base_model.get(key), two.base_model.get(key)
        if old != new:
            inputs.append(f"{label}: {old} → {new}")
    if one.seed != two.seed:
        inputs.append(f"seed: {one.seed} → {two.seed}")
    results = [{"status": r.status, "step": r.step, **_figures(r.result)} for r in (one, two)]
    outcome = {
        k: (results[0].get(k), results[1].get(k))
        for k in dict.fromkeys((*results[0], *results[1]))
        if results[0].get(k) != results[1].get(k)
    }
    names = sorted({*store.metric_names(one.run_id), *store.metric_names(two.run_id)})
    return RunDiff(
        runs=(one.run_id, two.run_id),
        settings=changed,
        same_settings=len({*left, *right}) - len(changed),
        inputs=inputs,
        environment=differences(one.environment, two.environment),
        outcome=outcome,
        metrics={
            n: _metric(dict(store.metrics(one.run_id, n)), dict(store.metrics(two.run_id, n))) for n in names
        },
    )


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of a result, without what differs between any two runs: id and folders."""
    return {
        k: v
        for k, v in result.items()
        if isinstance(v, (int, float, str, bool)) and k not in ("run_id", "status") and not k.endswith("path")
    }


def _metric(a: dict[int, float], b: dict[int, float]) -> MetricDiff:
    common = [s for s in a if s in b and math.isfinite(a[s]) and math.isfinite(b[s])]
    mean = math.fsum(b[s] - a[s] for s in common) / len(common) if common else None
    finite = [[v for v in side.values() if math.isfinite(v)] for side in (a, b)]
    return MetricDiff(
        last=(a[max(a)] if a else None, b[max(b)] if b else None),
        lowest=(min(finite[0], default=None), min(finite[1], default=None)),
        mean_difference=mean,
        common_steps=len(common),
    )
