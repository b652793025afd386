"""One evaluation from names to a verdict: candidate and baseline on the same rows, compared, held to gates, recorded.

- What is wrong with names, files and settings is refused before a job is recorded and before torch is loaded.
- Models are loaded one after the other; the base of an adapter is the same model with the adapter off.
- A tripped gate is a result and not an error here: the caller ends with exit code 65.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_merge.common import BpError

from bp_core.assessment.measure import Measured, measure
from bp_core.assessment.outcome import Assessment, Plan
from bp_core.assessment.sets import sets_of, trained_on
from bp_core.assessment.sources import find_source
from bp_core.evaluation.clusters import Cluster, clusters
from bp_core.evaluation.compare import compare
from bp_core.evaluation.gates import Gate, Verdict, judge
from bp_core.evaluation.metrics import get_metric
from bp_core.evaluation.packs import PackVerdict, judge_pack, load_pack
from bp_core.evaluation.profiles import get_profile
from bp_core.generation.prompts import Answerer, Prompt, read_prompts
from bp_core.runs.cards import CPU, card_name
from bp_core.runs.jobs import record_job
from bp_core.runs.writer import Run
from bp_core.settings.groups.evaluation import EvalSettings
from bp_core.settings.groups.generation import SourceSettings
from bp_core.support.files import plain

BASE = "base"  # the name of the adapter's base model for --vs and --gate-against
SHOWN = 5  # rows whose answers are shown where no prompts are named
PROMPTS = (
    "Introduce yourself in one sentence.",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that reverses a string.",
    "What is 17 + 25?",
    "Translate to French: Good morning, how are you?",
)


def plan_evaluation(
    name: str,
    output: Path,
    settings: EvalSettings,
    source: SourceSettings | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Find models and rows; refuse what cannot work. No torch.

    Raises:
        BpError: those of `find_source`, `sets_of`, `load_pack`, `read_prompts`; `INPUT_METRIC_UNKNOWN`,
            `INPUT_EVAL_PROFILE_UNKNOWN`, `CONFIG_CONFLICT`, `INPUT_DATA_MISSING` where a gate has no rows.
    """
    source = source or SourceSettings()
    for metric in (*settings.metric, *settings.gate_metric):
        if metric != "loss":
            get_metric(metric)
    if settings.profile:
        get_profile(settings.profile)
    if settings.metric and settings.profile:
        raise BpError(
            "CONFIG_CONFLICT", "--profile chooses metrics, and --metric names them", "leave one of them out"
        )
    if settings.pack is not None and (settings.heldout or settings.eval_set or settings.gate_metric):
        raise BpError(
            "CONFIG_CONFLICT",
            "an eval pack names its sets and gates itself",
            "leave --heldout, --eval-set and --gate-metric out",
        )
    if settings.benchmark:
        from bp_core.assessment.benchmarks import refuse_missing

        refuse_missing()
    pack = load_pack(settings.pack) if settings.pack is not None else None
    prompts = tuple(read_prompts(settings.prompts)) if settings.prompts is not None else ()
    candidate = find_source(name, output, source, tell)
    against = settings.gate_against or settings.vs
    baseline = None
    if against == BASE:
        if candidate.kind != "adapter":
            raise BpError(
                "CONFIG_CONFLICT", f"{name} is no adapter, so that it has no base model", "name a model"
            )
        baseline = dataclasses.replace(candidate, name=f"{candidate.base} (base)", kind="base", run=None)
    elif against:
        baseline = find_source(against, output, dataclasses.replace(source, base=None), tell)
    warnings = []
    if settings.gate_against and settings.vs and settings.gate_against != settings.vs:
        warnings.append(f"--gate-against {settings.gate_against} stands above --vs {settings.vs}")
    records = [s.run for s in (candidate, baseline) if s is not None and s.run is not None]
    sets = sets_of(settings, records, pack)
    gated = bool(settings.gate_against) or pack is not None
    if not sets and (gated or settings.vs or settings.metric or settings.profile):
        raise BpError(
            "INPUT_DATA_MISSING",
            f"there are no rows to evaluate {name} on",
            "add --heldout FILE or --eval-set FILE to the command",
        )
    if not sets and not settings.benchmark:
        warnings.append(
            "no rows: only answers to prompts are shown (--heldout FILE or --eval-set FILE gives figures)"
        )
    for one in sets:
        for record in records:
            if n := trained_on(one, record):
                warnings.append(
                    f"run {record.run_id} was trained on {n} of the {len(one.rows)} rows of {one.name}"
                )
    return Plan(candidate, baseline, gated, tuple(sets), prompts, pack, tuple(warnings))


def run_evaluation(
    name: str,
    output: Path,
    settings: EvalSettings,
    source: SourceSettings | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
    queue: bool = False,
    run_id: str | None = None,
) -> Assessment:
    """Evaluate a model, compare it, hold it to gates, and record all of it as a job of kind `eval`.

    Args:
        name: run, adapter, model, GGUF file or endpoint.
        output: the folder whose `runs.db` gets the job.
        settings: what is evaluated.
        source: how models are loaded.
        tell: shown to the user.
        queue: wait for the card.
        run_id: of the job; made from the time unless given.

    Raises:
        BpError: those of `plan_evaluation`; `RUNTIME_EVAL_FAILED` (exit code 2) for what broke in its midst;
            `RUNTIME_GPU_OOM`; those of models and metrics.
    """
    source = source or SourceSettings()
    plan = plan_evaluation(name, output, settings, source, tell)
    local = plan.candidate.local or (plan.baseline is not None and plan.baseline.local)
    parent = plan.candidate.run
    with record_job(
        output,
        "eval",
        card=card_name(source.backend) if local else CPU,
        tell=tell,
        queue=queue,
        config={"eval": {"model": name, **plain(settings)}},
        base_model={"ref": plan.candidate.base or plan.candidate.where},
        seed=settings.seed,
        parent=parent.run_id
        if parent is not None and parent.path.parent.absolute() == output.absolute()
        else None,
        run_id=run_id,
    ) as run:
        run.begin(total=len(plan.sets) * (2 if plan.baseline else 1), unit="sets")
        try:
            found = _evaluate(plan, settings, source, run, tell)
        except (BpError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise _failed(error, name) from error
        run.finish("completed", found.to_dict())
        return found


def _failed(error: Exception, name: str) -> BpError:
    from bp_core.training.step import is_out_of_memory

    if is_out_of_memory(error):
        return BpError(
            "RUNTIME_GPU_OOM",
            f"out of memory while {name} was evaluated",
            "add --batch-size 4 to the command",
        )
    cause = str(error).splitlines()[0] if str(error) else "no message"
    return BpError(
        "RUNTIME_EVAL_FAILED",
        f"the evaluation of {name} broke: {type(error).__name__}: {cause}",
        "run the same command with --verbose to see where, and report it",
    )


def _evaluate(
    plan: Plan, settings: EvalSettings, source: SourceSettings, run: Run, tell: Callable[[str], None]
) -> Assessment:
    from bp_core.assessment.opening import open_source
    from bp_core.assessment.page import write_page

    done = 0

    def measured(model: Answerer, prefix: str) -> dict[str, Measured]:
        nonlocal done
        found = {}
        for one in plan.sets:
            rows = run.path / f"{prefix}{one.name}-rows.jsonl"
            found[one.name] = measure(model, one, settings, rows_path=rows, tell=tell)
            if rows.is_file():
                run.artifact("rows", rows)
            done += 1
            run.progress(done)
        return found

    warnings = list(plan.warnings)
    baseline: dict[str, Measured] = {}
    shown: list[dict[str, Any]] = []
    benchmarks: dict[str, Any] = {}
    model: Any = open_source(plan.candidate, source)
    try:
        sets = measured(model, "")
        prompts = plan.prompts or (
            () if any(m.answers for m in sets.values()) else _default_prompts(plan, settings)
        )
        shown = _asked(model, prompts, settings, "answer", [{} for _ in prompts])
        if settings.benchmark:
            from bp_core.assessment.benchmarks import run_benchmarks

            benchmarks = run_benchmarks(model, settings, tell)
        if plan.baseline is not None and plan.baseline.kind == "base":
            with model.as_base() as bare:
                bare = dataclasses.replace(bare, name=plan.baseline.name)
                baseline = measured(bare, "baseline-")
                shown = _asked(bare, prompts, settings, "baseline_answer", shown)
    finally:
        model.close()
    if plan.baseline is not None and plan.baseline.kind != "base":
        del model
        other: Any = open_source(plan.baseline, dataclasses.replace(source, base=None))
        try:
            baseline = measured(other, "baseline-")
            shown = _asked(other, prompts, settings, "baseline_answer", shown)
        finally:
            other.close()
    if not plan.prompts:
        shown += _rows_shown(sets, baseline)
    for name, found in sets.items():
        if name in baseline:
            _pair_losses(found, baseline[name], warnings)
    comparisons = {
        name: {
            metric: compare(baseline[name].scores[metric], scores, seed=settings.seed)
            for metric, scores in found.scores.items()
            if metric in baseline[name].scores
        }
        for name, found in sets.items()
        if name in baseline
    }
    verdict = _verdict(plan, settings, sets, baseline, warnings)
    for prefix, every in (("", sets), (f"{plan.baseline.name}: " if plan.baseline else "", baseline)):
        for name, found in every.items():
            warnings += [f"{prefix}{name}: {w}" for w in found.result.warnings]
    if verdict is not None:
        several = verdict.sets.values() if isinstance(verdict, PackVerdict) else [verdict]
        warnings += [w for one in several for w in one.warnings]
    assessed = Assessment(
        plan,
        sets,
        baseline,
        comparisons,
        verdict,
        {name: _clusters(found) for name, found in sets.items() if found.choice is not None},
        shown,
        benchmarks,
        list(dict.fromkeys(warnings)),
        run.run_id,
    )
    if isinstance(verdict, PackVerdict):
        run.artifact("verdict", verdict.write(run.path / "verdict.json"))
    page = write_page(assessed, run.path / "report.html")
    assessed.report_path = str(page)
    run.artifact("report", page)
    return assessed


def _default_prompts(plan: Plan, settings: EvalSettings) -> tuple[Prompt, ...]:
    """Built-in prompts, where there is nothing else to show."""
    return () if settings.benchmark else tuple(Prompt.of(text) for text in PROMPTS)


def _asked(
    model: Answerer, prompts: Sequence[Prompt], settings: EvalSettings, key: str, shown: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Shown answers with those of one more model under `key`."""
    if not prompts:
        return shown
    one = dataclasses.replace(settings.generation(), num=1)
    told = model.answer(prompts, one)
    return [
        {"prompt": p.text, **before, key: found[0].text}
        for p, before, found in zip(prompts, shown, told, strict=True)
    ]


def _rows_shown(sets: Mapping[str, Measured], baseline: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """The first answered rows of the main set, as generations."""
    name, found = next(((n, m) for n, m in sets.items() if m.answers), ("", None))
    if found is None:
        return []
    before = baseline[name].answers if name in baseline and baseline[name].answers else None
    return [
        {
            "prompt": row.turns[-1].content,
            "expected": row.reference,
            "answer": found.answers[i][0].text,
            **({"baseline_answer": before[i][0].text} if before else {}),
        }
        for i, row in enumerate(found.asked[:SHOWN])
    ]


def _pair_losses(one: Measured, other: Measured, warnings: list[str]) -> None:
    """Keep the losses of rows that both models' encoders took: a template of one may refuse what the other's shows."""
    if "loss" not in one.scores or "loss" not in other.scores:
        return
    both = set(one.scores["loss"].ids) & set(other.scores["loss"].ids)
    if len(both) < max(len(one.scores["loss"].ids), len(other.scores["loss"].ids)):
        warnings.append(f"losses are compared on the {len(both)} rows that both models can encode")
    for found in (one, other):
        loss = found.scores["loss"]
        kept = [i for i, id_ in enumerate(loss.ids) if id_ in both]
        found.scores["loss"] = dataclasses.replace(
            loss, ids=tuple(loss.ids[i] for i in kept), stats=loss.stats[kept]
        )


def _verdict(
    plan: Plan,
    settings: EvalSettings,
    sets: Mapping[str, Measured],
    baseline: Mapping[str, Measured],
    warnings: list[str],
) -> Verdict | PackVerdict | None:
    if not plan.gated:
        return None
    if plan.pack is not None:
        against = {n: m.scores for n, m in baseline.items()} if baseline else None
        return judge_pack(plan.pack, {n: m.scores for n, m in sets.items()}, against, seed=settings.seed)
    candidate = {k: v for m in sets.values() for k, v in m.scores.items()}
    before = {k: v for m in baseline.values() for k, v in m.scores.items()}
    names = list(dict.fromkeys(settings.gate_metric))
    if "loss" in candidate and "loss" in before:
        names = list(dict.fromkeys(["loss", *names]))
    elif not names:
        first = next((m.choice.profile.metrics[0] for m in sets.values() if m.choice is not None), None)
        if first is None:
            raise BpError(
                "RUNTIME_EVAL_FAILED",
                "neither a loss nor a metric was measured to gate on",
                "add --eval-set FILE to the command",
            )
        names = [first]
        warnings.append(f"no loss of both models: the gate is on {first}")
    gates = [Gate(metric, max_regression=settings.max_regression) for metric in names]
    return judge(gates, candidate, before, seed=settings.seed)


def _clusters(found: Measured) -> list[Cluster]:
    """Failure clusters by the first metric of the profile."""
    if found.choice is None or found.choice.profile.name in ("preference", "code"):
        return []
    name = found.choice.profile.metrics[0]
    scores = found.scores[name]
    metric = get_metric(name) if ".py:" not in name else None
    best = 1.0
    if metric is not None:
        best = metric.high if metric.better == "higher" else metric.low
    return clusters(found.cases, scores, best=best if math.isfinite(best) else 1.0)
