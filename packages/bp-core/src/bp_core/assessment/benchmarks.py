"""Standard benchmarks by name, run by lm-eval, an extra: its figures with their standard errors.

- lm-eval fetches most of its data sets from a hub; a task of one's own with local data comes by `--benchmark-path`.
- The model is the one in memory, adapter included; prompts are lm-eval's own (no chat template), as published figures are.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

from bp_merge.common import BpError

from bp_core.settings.groups.evaluation import EvalSettings

EXTRA = "bp-core[benchmarks]"
_LEVEL = 1.959963984540054  # standard errors on each side of a 95 % interval


def refuse_missing() -> None:
    """Refuse benchmarks without lm-eval.

    Raises:
        BpError: `DEP_EVAL_MISSING`.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise BpError(
            "DEP_EVAL_MISSING", "--benchmark needs lm-eval, which is not installed", f"pip install '{EXTRA}'"
        )


def run_benchmarks(model: Any, settings: EvalSettings, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the tasks; by task its rows (`n`) and its `metrics`: `value`, `stderr` and `ci` where lm-eval gives one.

    Raises:
        BpError: `DEP_EVAL_MISSING`; `CONFIG_CONFLICT` for a model that is not in this process;
            `INPUT_BENCHMARK_UNKNOWN` for a task that lm-eval does not know.
    """
    refuse_missing()
    if not hasattr(model, "encoder"):
        raise BpError(
            "CONFIG_CONFLICT",
            f"benchmarks run on a model in this process, and {model.name} is none",
            "leave --benchmark out, or name a run, an adapter or a model",
        )
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    path = str(settings.benchmark_path) if settings.benchmark_path is not None else None
    tasks = TaskManager(include_path=path)
    if unknown := [name for name in settings.benchmark if not tasks.match_tasks([name])]:
        raise BpError(
            "INPUT_BENCHMARK_UNKNOWN",
            f"lm-eval knows no task {', '.join(unknown)}",
            "see which there are: lm-eval ls tasks",
        )
    tell(f"lm-eval: {', '.join(settings.benchmark)}")
    wrapped = HFLM(pretrained=model.model, tokenizer=model.encoder.tokenizer, batch_size=settings.batch_size)
    found: Any = lm_eval.simple_evaluate(
        model=wrapped,
        tasks=list(settings.benchmark),
        task_manager=tasks,
        limit=settings.benchmark_limit,
        random_seed=settings.seed,
        numpy_random_seed=settings.seed,
        torch_random_seed=settings.seed,
        bootstrap_iters=1000,
        log_samples=False,
    )
    return {task: _figures(told, found["n-samples"].get(task, {})) for task, told in found["results"].items()}


def _figures(told: dict[str, Any], samples: dict[str, Any]) -> dict[str, Any]:
    metrics = {}
    for key, value in told.items():
        name, _, filtered = key.partition(",")
        if name.endswith("_stderr") or not isinstance(value, int | float) or not filtered:
            continue
        error: Any = told.get(f"{name}_stderr,{filtered}")
        known = isinstance(error, int | float) and math.isfinite(error)
        metrics[name if filtered == "none" else f"{name} ({filtered})"] = {
            "value": float(value),
            "stderr": float(error) if known else None,
            "ci": [value - _LEVEL * error, value + _LEVEL * error] if known else None,
        }
    return {"n": samples.get("effective"), "metrics": metrics}
