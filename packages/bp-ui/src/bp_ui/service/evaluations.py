"""Evaluations as jobs, and their results as a page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bp_ui.service.services import Services


def start_evaluation(
    services: Services,
    run_id: str,
    *,
    vs: str = "",
    gate_against: str = "",
    eval_set: str = "",
    num_samples: int = 64,
    job_id: str | None = None,
) -> str:
    """Start an evaluation of a run's adapter; returns the id of its job.

    Args:
        services: of the server.
        run_id: whose adapter is evaluated.
        vs: `base` or a run to compare with; "" compares with nothing.
        gate_against: a run that must not be better; "" gates nothing.
        eval_set: a dataset whose answers are scored; "" takes the rows that the run held out.
        num_samples: rows that are answered; 0 takes all.
        job_id: of the job.

    Raises:
        BpError: those of `find_adapter`, `INPUT_UI_PATH_FORBIDDEN`, `INPUT_UI_FILE_TYPE`.
    """
    from bp_core.runs.adapters import find_adapter

    places = services.places
    for name in filter(None, (run_id, vs if vs != "base" else "", gate_against)):
        places.readable(str(find_adapter(name, places.output)))
    flags = [f"--num-samples={int(num_samples)}"]
    flags += [f"--vs={vs}"] if vs else []
    flags += [f"--gate-against={gate_against}"] if gate_against else []
    flags += [f"--eval-set={places.readable(eval_set, data=True)}"] if eval_set else []
    return services.jobs.evaluate(run_id, flags, job_id=job_id)


def figures(result: Mapping[str, Any]) -> list[tuple[str, float, Any, float | None]]:
    """Rows of a result: metric, figure, its 95 % interval, the baseline's figure."""
    rows: list[tuple[str, float, Any, float | None]] = []
    compared = next(iter((result.get("comparison") or {}).values()), {})

    def baseline(name: str) -> float | None:
        return (compared.get(name) or {}).get("baseline")

    if result.get("heldout_loss") is not None:
        rows.append(
            ("held-out loss", result["heldout_loss"], result.get("heldout_loss_ci"), baseline("loss"))
        )
    for name, value in (result.get("task_metrics") or {}).items():
        rows.append(
            (name.replace("_", " "), value, (result.get("metric_ci") or {}).get(name), baseline(name))
        )
    return rows
