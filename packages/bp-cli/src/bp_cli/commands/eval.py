"""backprop eval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from bp_core.settings.groups.evaluation import EvalSettings
from bp_core.settings.groups.generation import SourceSettings
from bp_merge.common import Exit, Sink, options, output_options

from bp_cli.options import output_option


@click.command(
    "eval",
    epilog="\b\nExamples:\n"
    "  backprop eval RUN --vs base\n"
    "  backprop eval RUN --eval-set questions.jsonl --metric normalized_exact_match\n"
    "  backprop eval RUN --gate-against OLDER_RUN --gate-metric token_f1 --max-regression 0.01\n"
    "  backprop eval model-q4_k_m.gguf --eval-set questions.jsonl --vs RUN\n",
)
@click.argument("model", default="latest", required=False)
@options(source=SourceSettings, settings=EvalSettings)
@click.option("--queue", is_flag=True, help="Wait until the jobs that asked for the card before are done.")
@click.option("--run-id", metavar="NAME", help="Name of the job. Default: the time, and six random digits.")
@output_option
@output_options
@click.pass_context
def eval_command(
    ctx: click.Context,
    sink: Sink,
    model: str,
    source: SourceSettings,
    settings: EvalSettings,
    queue: bool,
    run_id: str | None,
    output: Path,
) -> None:
    """Evaluate a model: held-out loss, answers, metrics; compare it; hold it to gates.

    MODEL is a run id or its beginning, `latest`, an adapter's or a model's folder, a base model, a GGUF file or the
    address of an OpenAI-compatible endpoint. A tripped gate ends with exit code 65.
    """
    from bp_core.assessment.sources import find_source

    from bp_cli.shared import set_up_logs

    set_up_logs(ctx.obj or {})
    find_source(model, output, source)  # a wrong name is refused before anything slow is loaded
    from bp_core.assessment.run import run_evaluation

    found = run_evaluation(model, output, settings, source, tell=sink.note, queue=queue, run_id=run_id)
    sink.result(found.to_dict(), lambda: _text(found), quiet="passed" if found.passed else "failed")
    for warning in found.warnings:
        sink.note(f"note: {warning}")
    if not found.passed:
        from bp_core.evaluation.packs import PackVerdict

        verdicts = found.verdict.sets.values() if isinstance(found.verdict, PackVerdict) else [found.verdict]
        reasons = [f"{o.gate.metric}: {o.reason}" for v in verdicts if v for o in v.outcomes if o.blocks]
        sink.note(f"[RUNTIME_EVAL_GATE_REGRESSED] {'; '.join(reasons)}")
        ctx.exit(Exit.GATE)


def _text(found: Any) -> str:
    from bp_cli.text import table

    parts = []
    for name, one in found.sets.items():
        compared = found.comparisons.get(name, {})
        result = one.result
        figures = (
            {"loss": (result.heldout_loss, result.heldout_loss_ci)} if result.heldout_loss is not None else {}
        )
        figures |= {m: (v, result.metric_ci.get(m)) for m, v in result.task_metrics.items()}
        rows = []
        for metric, (value, ci) in figures.items():
            row = [metric, f"{value:.4g}", "" if ci is None else f"{ci[0]:.4g} … {ci[1]:.4g}"]
            if compared:
                c = compared.get(metric)
                row += ["", ""] if c is None else [
                    f"{c.baseline:.4g}",
                    f"{c.delta:+.4g} ({c.interval.low:+.4g} … {c.interval.high:+.4g})",
                ]  # fmt: skip
            rows.append(tuple(row))
        head = ("metric", "figure", "95 %", *(("baseline", "difference") if compared else ()))
        told = [f"{result.eval_n} rows answered" if one.choice else ""]
        told.append(
            f"perplexity {result.perplexity:.4g} on {result.heldout_n} rows" if result.perplexity else ""
        )
        told.append(f"profile {one.choice.profile.name}, {one.choice.reason}" if one.choice else "")
        parts.append(f"{name}: " + "; ".join(t for t in told if t))
        parts.append(table(rows, head))
        for metric, c in compared.items():
            if metric != "loss":
                parts.append(f"{metric}: {len(c.improved)} rows better, {len(c.worsened)} worse")
        for cluster in found.clusters.get(name, [])[:3]:
            parts.append(f"{cluster.count} rows missed, {cluster.pattern}: {cluster.advice}")
    for task, one in found.benchmarks.items():
        rows = [
            (m, f"{v['value']:.4g}", "" if v["ci"] is None else f"{v['ci'][0]:.4g} … {v['ci'][1]:.4g}")
            for m, v in one["metrics"].items()
        ]
        parts += [f"{task} (lm-eval, {one['n']} rows)", table(rows, ("metric", "figure", "95 %"))]
    for shown in found.generations:
        lines = [f"> {shown['prompt']}"]
        if "baseline_answer" in shown:
            lines.append(f"  baseline  {shown['baseline_answer']}")
        parts.append("\n".join([*lines, f"  answer    {shown['answer']}"]))
    if found.verdict is not None:
        parts.append("gates: " + ("passed" if found.passed else "FAILED"))
    parts.append(f"report  {found.report_path}")
    return "\n\n".join(parts)
