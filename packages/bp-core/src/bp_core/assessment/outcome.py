"""What an evaluation is about and what it found, as values."""

from __future__ import annotations

import dataclasses
from typing import Any

from bp_core.assessment.measure import Measured
from bp_core.assessment.sets import RowSet
from bp_core.assessment.sources import Source
from bp_core.evaluation.clusters import Cluster
from bp_core.evaluation.compare import Comparison
from bp_core.evaluation.gates import Verdict
from bp_core.evaluation.packs import Pack, PackVerdict
from bp_core.generation.prompts import Prompt
from bp_core.support.files import plain


@dataclasses.dataclass(frozen=True)
class Plan:
    """An evaluation that was found possible; nothing is loaded."""

    candidate: Source
    baseline: Source | None
    gated: bool
    sets: tuple[RowSet, ...]
    prompts: tuple[Prompt, ...]
    pack: Pack | None
    warnings: tuple[str, ...]


@dataclasses.dataclass
class Assessment:
    """What an evaluation found.

    Args:
        plan: what was evaluated.
        sets: of the candidate, by name.
        baseline: of the baseline, by name; empty without one.
        comparisons: by set and metric.
        verdict: of the gates, where there are any.
        clusters: of the rows that missed, by set.
        generations: shown answers, `{prompt, answer}` and with a baseline `baseline_answer`.
        benchmarks: figures of lm-eval by task.
        warnings: what a reader must know.
        run_id: of the job.
        report_path: the page.
    """

    plan: Plan
    sets: dict[str, Measured]
    baseline: dict[str, Measured]
    comparisons: dict[str, dict[str, Comparison]]
    verdict: Verdict | PackVerdict | None
    clusters: dict[str, list[Cluster]]
    generations: list[dict[str, Any]]
    benchmarks: dict[str, Any]
    warnings: list[str]
    run_id: str = ""
    report_path: str = ""

    @property
    def passed(self) -> bool:
        """Whether no gate blocks."""
        return self.verdict is None or self.verdict.passed

    @property
    def main(self) -> Measured | None:
        """The set whose answers were scored, else the first."""
        found = list(self.sets.values())
        return next((m for m in found if m.choice is not None), found[0] if found else None)

    def to_dict(self) -> dict[str, Any]:
        """As `eval --json` prints it: the main set's figures on top, every set below `sets`."""
        main = self.main
        loss = next((m.result for m in self.sets.values() if m.result.heldout_loss is not None), None)
        top = main.result if main is not None else None
        gated = self.verdict is not None
        return {
            "run_id": self.run_id,
            "subject": self.plan.candidate.name,
            "kind": self.plan.candidate.kind,
            "evaluated_run_id": self.plan.candidate.run.run_id if self.plan.candidate.run else None,
            "heldout_loss": loss.heldout_loss if loss else None,
            "heldout_loss_ci": list(loss.heldout_loss_ci) if loss and loss.heldout_loss_ci else None,
            "perplexity": loss.perplexity if loss else None,
            "heldout_n": loss.heldout_n if loss else 0,
            "task_metrics": dict(top.task_metrics) if top else {},
            "eval_n": top.eval_n if top else 0,
            "metric_ci": plain(top.metric_ci) if top else {},
            "profile": top.profile if top else "",
            "profile_reason": main.choice.reason if main is not None and main.choice else "",
            "generations": self.generations,
            "sets": {name: _set_dict(m) for name, m in self.sets.items()},
            "baseline": self.plan.baseline.name if self.plan.baseline else None,
            "baseline_sets": {name: _set_dict(m) for name, m in self.baseline.items()},
            "comparison": plain(self.comparisons),
            "gate": plain(self.verdict.to_dict()) if gated else None,  # type: ignore[union-attr]
            "passed": self.passed if gated else None,
            "clusters": plain(self.clusters),
            "benchmarks": plain(self.benchmarks),
            "warnings": list(self.warnings),
            "report_path": self.report_path,
        }


def _set_dict(found: Measured) -> dict[str, Any]:
    told = found.result.to_dict()
    told.pop("schema_version")
    return told
