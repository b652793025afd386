"""The user's own metrics: a function in a file, or an installed entry point. Loaded only when named.

    def brevity(prediction, reference, context=()):
        return 1.0 if len(prediction) < 80 else 0.0

- `path/to/file.py:brevity` runs that file, so name only files that you trust; nothing is found by looking around.
- An installed package offers metrics by the entry point group `bp_core.metrics`; only the one named is loaded.
- The function gives a number per row, and the figure is their mean. What it raises ends the evaluation, with its row.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.evaluation.metrics.base import BadReferenceError, Metric, UnscoredError

GROUP = "bp_core.metrics"


def find(name: str) -> Metric | None:
    """The user's metric of this name, or None where the name is neither `file.py:function` nor an entry point."""
    path, _, function = name.rpartition(":")
    if path.endswith(".py"):
        return _metric(name, _from_file(Path(path), function))
    for entry in importlib.metadata.entry_points(group=GROUP, name=name):
        found = entry.load()
        return found if isinstance(found, Metric) else _metric(name, found)
    return None


def _from_file(path: Path, function: str) -> Any:
    if not path.is_file():
        raise BpError("INPUT_METRIC_INVALID", f"there is no file {path}", f"ls {path.parent}")
    spec = importlib.util.spec_from_file_location(f"bp_user_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BpError("INPUT_METRIC_INVALID", f"{path} is no Python file", "give path/to/file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look the module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BpError(
            "INPUT_METRIC_INVALID",
            f"{path} cannot be loaded: {type(error).__name__}: {error}",
            f"python {path}",
        ) from error
    found = getattr(module, function, None)
    if found is None:
        defined = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == spec.name]
        raise BpError(
            "INPUT_METRIC_INVALID",
            f"{path} has no function {function!r}",
            f"it defines {', '.join(defined) or 'none'}",
        )
    return found


def _metric(name: str, function: Callable[..., Any]) -> Metric:
    if not callable(function):
        raise BpError(
            "INPUT_METRIC_INVALID",
            f"{name} is no function",
            "def name(prediction, reference, context=()): ...",
        )
    places = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    wide = any(p.kind is p.VAR_POSITIONAL for p in places)
    takes = 3 if wide else len(places)
    if takes < 2 or (not wide and sum(p.default is p.empty for p in places) > 3):
        raise BpError(
            "INPUT_METRIC_INVALID",
            f"{name} must take (prediction, reference) or (prediction, reference, context)",
            "def name(prediction, reference, context=()): ...",
        )

    def row(prediction: Any, reference: Any, context: Any = (), **options: Any) -> float:
        given = (prediction, reference, context)[:takes]
        try:
            value = function(*given, **options)
        except (BpError, BadReferenceError, UnscoredError):
            raise
        except Exception as error:
            raise BpError(
                "RUNTIME_EVAL_FAILED",
                f"the metric {name} failed: {type(error).__name__}: {error}",
                f"try it on the row: {str(prediction)[:60]!r} against {str(reference)[:60]!r}",
            ) from error
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return float(value)
        raise BpError(
            "RUNTIME_EVAL_FAILED",
            f"the metric {name} gave {str(value)[:40]!r}, not a finite number",
            "return a float for every row, 0.0 for a wrong answer",
        )

    keywords = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    row.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [*list(inspect.signature(row).parameters.values())[:3], *keywords]
    )
    row.__doc__ = inspect.getdoc(function) or "A metric of the user."
    return Metric(name, "own", row, "own", low=0.0, high=float("inf"))
