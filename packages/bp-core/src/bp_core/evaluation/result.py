"""What an evaluation found: figures with their intervals, warnings, and one row a case, in files that others can read.

- `task_metrics`, `eval_n` and `metric_ci` are the keys that scripts read; a `metric_ci` is [low, high] at `level`.
- The rows hold what was said and expected, so that a later comparison scores them again, on any metric, rather than
  trusting stored figures.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import SCHEMA_VERSION, BpError

from bp_core.evaluation.compare import interval, size_warning
from bp_core.evaluation.metrics import Case, Scores, score
from bp_core.support.files import dumps, plain, write_atomic, write_json


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """The figures of one model on one set.

    Args:
        task_metrics: figure by metric.
        eval_n: rows scored.
        metric_ci: [low, high] by metric; None where fewer than two rows were scored.
        warnings: what a reader must know.
        subject: run id, adapter, model or address that was evaluated.
        profile: the task profile that chose the metrics.
        details: tables by metric (per class, per field, misses).
        rows_path: the JSON lines with every row, where they were written.
        level: of the intervals.
        seed: of the bootstrap.
        heldout_loss: nats per label token; None where it was not measured.
        heldout_loss_ci: [low, high] of it.
        perplexity: exp of it.
        heldout_n: rows whose loss was measured.
    """

    task_metrics: Mapping[str, float]
    eval_n: int
    metric_ci: Mapping[str, tuple[float, float] | None]
    warnings: tuple[str, ...] = ()
    subject: str = ""
    profile: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows_path: str | None = None
    level: float = 0.95
    seed: int = 0
    heldout_loss: float | None = None
    heldout_loss_ci: tuple[float, float] | None = None
    perplexity: float | None = None
    heldout_n: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data, with `schema_version`."""
        return {"schema_version": SCHEMA_VERSION, **plain(self)}

    def write(self, path: Path) -> Path:
        """Write the result as one JSON file, whole or not at all."""
        return write_json(path, self.to_dict())


def evaluate(
    cases: Sequence[Case],
    metrics: Sequence[str],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    subject: str = "",
    profile: str = "",
    rows_path: Path | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[EvalResult, dict[str, Scores]]:
    """Score a set with several metrics.

    Args:
        cases: answers and references.
        metrics: names.
        options: of metrics, by name.
        subject: what was evaluated, for the record.
        profile: the task profile that chose the metrics, for the record.
        rows_path: where to write the rows as JSON lines; None writes none.
        level: of the intervals.
        seed: of the bootstrap.

    Returns:
        The result, and the scores for `compare` and `gates`.

    Raises:
        BpError: `RUNTIME_EVAL_FAILED` without a row; those of `get_metric` and `Metric.score`.
    """
    if not cases:
        raise BpError("RUNTIME_EVAL_FAILED", "there is no row to score", "name a set that has rows")
    scores = score(cases, metrics, options)
    warnings = [w for w in (size_warning(len(cases)),) if w]
    for name, found in scores.items():
        warnings += [f"{name}: {n} rows count as wrong: {why}" for why, n in found.unscored.items()]
    silent = sum(case.prediction is None for case in cases)
    if silent:
        warnings.append(f"{silent} of {len(cases)} rows have no answer")
    bounds = {name: interval(found, level=level, seed=seed) for name, found in scores.items()}
    if rows_path is not None:
        write_rows(rows_path, cases, scores)
    result = EvalResult(
        task_metrics={name: found.value for name, found in scores.items()},
        eval_n=len(cases),
        metric_ci={n: None if math.isnan(b.low) else (b.low, b.high) for n, b in bounds.items()},
        warnings=tuple(warnings),
        subject=subject,
        profile=profile,
        details={name: found.details for name, found in scores.items() if found.details},
        rows_path=None if rows_path is None else str(rows_path),
        level=level,
        seed=seed,
    )
    return result, scores


def write_rows(path: Path, cases: Sequence[Case], scores: Mapping[str, Scores]) -> Path:
    """Write one JSON object a row: id, prediction, reference, context and the value of each metric."""
    values = {name: found.values for name, found in scores.items()}
    lines = []
    for i, case in enumerate(cases):
        row = {
            "id": case.id or str(i),
            "prediction": case.prediction,
            "reference": case.reference,
            **({"context": list(case.context)} if case.context else {}),
            "scores": {name: float(v[i]) for name, v in values.items()},
        }
        lines.append(dumps(row) + "\n")
    return write_atomic(path, "".join(lines))


def read_rows(path: Path) -> list[Case]:
    """The cases of a file that `write_rows` wrote.

    Raises:
        BpError: `INPUT_EVAL_ROWS_UNREADABLE` where the file is not there or holds something else.
    """
    try:
        found = [
            json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        return [
            Case(r["prediction"], r["reference"], tuple(r.get("context", ())), str(r["id"])) for r in found
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BpError(
            "INPUT_EVAL_ROWS_UNREADABLE",
            f"{path} holds no rows of an evaluation: {type(error).__name__}: {error}",
            "evaluate again and keep its rows",
        ) from error
