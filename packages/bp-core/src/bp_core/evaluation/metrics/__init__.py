"""Metrics by name: `get_metric("token_f1")`, `score(cases, ["token_f1"])`. One file a family; see `base` for what they share."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bp_merge.common import BpError

from bp_core.evaluation.metrics.base import REGISTRY, Case, Metric, Scores, UnscoredError

__all__ = ["FAMILIES", "Case", "Metric", "Scores", "UnscoredError", "all_metrics", "get_metric", "score"]

FAMILIES: dict[str, tuple[str, ...]] = {
    "qa": ("normalized_exact_match", "token_f1", "contains", "regex"),
    "classification": ("accuracy", "macro_f1", "micro_f1"),
    "spans": ("span_f1", "span_precision", "span_recall", "entity_f1"),
    "structured": (
        "field_accuracy",
        "object_match",
        "missing_fields",
        "extra_fields",
        "json_valid",
        "json_schema",
    ),
    "rag": ("faithfulness", "context_recall"),
    "seq2seq": ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum"),
    "numeric": ("math_equal",),
    "reasoning": ("think_format",),
    "tools": ("tool_calls", "tool_names"),
    "execution": ("pass_at_k", "pass_rate"),
    "preference": ("preference_margin", "win_rate"),
}
_MODULE = {name: module for module, names in FAMILIES.items() for name in names}


def get_metric(name: str, **options: Any) -> Metric:
    """The metric of a name: a built-in one, or the user's own (`file.py:function`, or an installed entry point).

    Raises:
        BpError: `INPUT_METRIC_UNKNOWN` for a name or an option that does not exist; `INPUT_METRIC_INVALID` for a file
            that holds no such function.
    """
    if name in _MODULE:
        importlib.import_module(f"bp_core.evaluation.metrics.{_MODULE[name]}")
        return REGISTRY[name].configured(options)
    from bp_core.evaluation.metrics import custom

    found = custom.find(name)
    if found is not None:
        return found.configured(options)
    near = difflib.get_close_matches(name, _MODULE, 1)
    raise BpError(
        "INPUT_METRIC_UNKNOWN",
        f"there is no metric {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"choose among {', '.join(_MODULE)}, or give path/to/file.py:function",
        details={"known": list(_MODULE)},
    )


def all_metrics() -> list[Metric]:
    """Every built-in metric."""
    return [get_metric(name) for name in _MODULE]


def score(
    cases: Sequence[Case], names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Scores]:
    """Score the cases with each metric named; `options` by metric name."""
    return {name: get_metric(name, **(options or {}).get(name, {})).score(cases) for name in names}
