"""The pipeline of a plan walked without a model: every stage leaves an artifact that says it was simulated.

- Data is read and counted for real. Training, evaluation and export only say what they would do; nothing is loaded.
- Each artifact is JSON with `simulated: true`, so that nobody takes it for a model; the job's kind is `simulation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bp_core.planning.plan import Plan
from bp_core.runs.jobs import record_job
from bp_core.support.files import write_json


def simulate(plan: Plan, output: Path, *, tell: Callable[[str], None]) -> dict[str, Path]:
    """Walk the stages of a plan.

    Args:
        plan: by `plan`.
        output: the folder whose runs.db gets the job.
        tell: shows a line to the user.

    Returns:
        stage → its artifact.
    """
    found: dict[str, Path] = {}
    stages = _stages(plan)
    with record_job(output, "simulation", card="cpu", tell=tell, config={"plan": plan.settings}) as run:
        run.begin(total=len(stages), unit="stages")
        for number, (stage, told) in enumerate(stages.items(), 1):
            found[stage] = run.path / f"simulated-{stage}.json"
            write_json(found[stage], {"simulated": True, "stage": stage, **told})
            run.artifact(f"simulated-{stage}", found[stage], simulated=True)
            run.event("STAGE_SIMULATED", f"{stage} was simulated: no model was loaded", stage=stage)
            run.progress(number)
    return found


def _stages(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "data": {"data": plan.data, **dataclasses.asdict(plan.rows)},
        "plan": {"command": plan.command, "settings": plan.settings, "reasons": plan.reasons},
        "memory": {"verdict": plan.verdict, "total_bytes": plan.total_bytes, "vram_gb": plan.vram_gb},
        "train": {"method": plan.method, "steps": plan.steps, "weights": None},
        "eval": {"metrics": None},
        "export": {"format": "gguf", "file": None},
    }
