"""One model on one set: its loss, its answers, and what they score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bp_core.assessment.sets import RowSet
from bp_core.evaluation.code import code_of, run_tests
from bp_core.evaluation.compare import interval
from bp_core.evaluation.metrics import Case, Scores
from bp_core.evaluation.profiles import Choice, Profile, choose
from bp_core.evaluation.result import EvalResult, evaluate
from bp_core.evaluation.rows import EvalRow, drawn
from bp_core.generation.prompts import Answer, Answerer, Prompt
from bp_core.settings.groups.evaluation import EvalSettings

OWN = Choice(Profile("own", (), "metrics that the user named"), "metrics named by the user")


@dataclasses.dataclass
class Measured:
    """What was found of one model on one set.

    Args:
        result: figures, intervals, warnings.
        scores: by metric, `loss` among them where it was measured.
        cases: that were scored.
        choice: the profile, and why; None where nothing was scored.
        answers: to the rows, in their order.
        asked: the rows that were answered.
    """

    result: EvalResult
    scores: dict[str, Scores]
    cases: list[Case]
    choice: Choice | None
    answers: list[list[Answer]]
    asked: list[EvalRow]


def choice_of(chosen: RowSet, rows: Sequence[EvalRow]) -> Choice:
    """The metrics of a set: named, declared by its rows, or suggested by their references.

    Raises:
        BpError: `INPUT_EVAL_PROFILE_UNKNOWN`, `INPUT_EVAL_TASKS_MIXED`.
    """
    if chosen.metrics:
        return dataclasses.replace(OWN, profile=dataclasses.replace(OWN.profile, metrics=chosen.metrics))
    if not chosen.profile and all(row.paired for row in rows):
        return choose([], name="preference")
    if not chosen.profile and all(row.tests for row in rows):
        return choose([], name="code")
    return choose(
        [row.reference for row in rows],
        name=chosen.profile,
        tasks=[row.task for row in rows],
        contexts=[row.context for row in rows],
    )


def measure(
    model: Answerer,
    chosen: RowSet,
    settings: EvalSettings,
    *,
    rows_path: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Measured:
    """Measure one model on one set.

    Args:
        model: that answers.
        chosen: the rows and what is measured on them.
        settings: of the evaluation.
        rows_path: where the answered rows are written.
        tell: hears what is being done.

    Raises:
        BpError: those of the encoder, the model, and the metrics.
    """
    warnings = list(chosen.warnings)
    scores: dict[str, Scores] = {}
    local = hasattr(model, "encoder")
    if chosen.loss:
        if local:
            from bp_core.assessment.loss import loss_of

            tell(f"{model.name}: loss of {len(chosen.rows)} rows")
            found = loss_of(model, chosen.rows, warnings)  # type: ignore[arg-type]
            if found is not None:
                scores["loss"] = found
        else:
            warnings.append("no loss: a GGUF file or an endpoint gives no probabilities of given texts")
    scorable = [row for row in chosen.rows if row.scored or (row.paired and local)]
    asked = drawn(scorable, settings.num_samples, settings.seed) if chosen.answers else []
    if not asked:
        result = EvalResult({}, 0, {}, tuple(warnings), model.name, seed=settings.seed)
        return Measured(with_loss(result, scores), scores, [], None, [], [])
    choice = choice_of(chosen, asked)
    answers: list[list[Answer]] = []
    if choice.profile.name == "preference":
        from bp_core.assessment.loss import pair_scores

        tell(f"{model.name}: probabilities of {len(asked)} pairs")
        pairs = pair_scores(model, asked, warnings)  # type: ignore[arg-type]
        cases = [Case(pairs[row.id], None, (), row.id) for row in asked if row.id in pairs]
    else:
        tell(f"{model.name}: answers to {len(asked)} rows")
        prompts = [Prompt(row.turns, row.tools, row.id) for row in asked]
        answers = model.answer(prompts, settings.generation())
        cut = sum(found[0].finish == "length" for found in answers)
        if cut:
            warnings.append(f"{cut} of {len(asked)} answers were cut off at {settings.max_new_tokens} tokens")
        cases = cases_of(asked, answers, settings)
    if not local and chosen.answers and len(scorable) < sum(row.paired for row in chosen.rows):
        warnings.append(
            "pairs were left out: a GGUF file or an endpoint gives no probabilities of given texts"
        )
    result, more = evaluate(
        cases,
        list(dict.fromkeys([*choice.profile.metrics, *chosen.gated])),
        options=chosen.options,
        subject=model.name,
        profile=choice.profile.name,
        rows_path=rows_path,
        seed=settings.seed,
    )
    result = dataclasses.replace(result, warnings=tuple(dict.fromkeys([*warnings, *result.warnings])))
    scores |= more
    return Measured(with_loss(result, scores), scores, cases, choice, answers, asked)


def cases_of(
    rows: Sequence[EvalRow], answers: Sequence[Sequence[Answer]], settings: EvalSettings
) -> list[Case]:
    """Answers beside what was expected; the code of a row with tests is run, where that was allowed."""
    return [
        Case(_prediction(row, found, settings), row.reference, row.context, row.id)
        for row, found in zip(rows, answers, strict=True)
    ]


def _prediction(row: EvalRow, found: Sequence[Answer], settings: EvalSettings) -> Any:
    first = found[0]
    if row.tests and settings.code_exec:
        runs = [
            run_tests(code_of(a.text), row.tests, allow=True, network=settings.code_network) for a in found
        ]
        return [all(passed) for passed in runs] if len(found) > 1 else runs[0]
    return list(first.tool_calls) if first.tool_calls else first.text


def with_loss(result: EvalResult, scores: Mapping[str, Scores]) -> EvalResult:
    """The result with the held-out loss, its interval, and the perplexity."""
    found = scores.get("loss")
    if found is None:
        return result
    bounds = interval(found, level=result.level, seed=result.seed)
    ci = None if math.isnan(bounds.low) else (bounds.low, bounds.high)
    return dataclasses.replace(
        result,
        heldout_loss=found.value,
        heldout_loss_ci=ci,
        perplexity=math.exp(min(found.value, 700.0)),
        heldout_n=len(found.ids),
    )
