"""An evaluation with intervals, against the base model: `python evaluate.py RUN` (or `latest`)."""

import sys
from pathlib import Path

from bp_core.assessment.run import run_evaluation
from bp_core.settings.groups.evaluation import EvalSettings

settings = EvalSettings(
    eval_set=Path(__file__).parent / "sums.jsonl",
    metric=("normalized_exact_match",),
    num_samples=8,
    max_new_tokens=16,
    vs="base",
)
found = run_evaluation(sys.argv[1], Path("output"), settings)
told = found.to_dict()
print(told["task_metrics"], told["metric_ci"], "of", told["eval_n"], "rows")
print(found.report_path)
