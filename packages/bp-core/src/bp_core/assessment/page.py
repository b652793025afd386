"""An evaluation as one HTML page: figures with intervals, gates, what flipped, how rows missed, and the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bp_core.assessment.measure import Measured
from bp_core.assessment.outcome import Assessment
from bp_core.evaluation.clusters import Cluster
from bp_core.evaluation.compare import Comparison
from bp_core.evaluation.metrics.texts import text_of
from bp_core.evaluation.packs import PackVerdict
from bp_core.evaluation.pictures import confusion_svg
from bp_core.runs.report import page
from bp_core.support.files import write_atomic

SHOWN = 20  # flipped rows of each direction
_LONG = 600  # characters of a text in the page
STYLE = (
    "svg.bar{width:220px;height:14px;display:block}svg.bar .t{fill:var(--line)}svg.bar .i{fill:var(--soft);opacity:.45}"
    "svg.bar .v{fill:var(--good)}svg.bar .w{fill:var(--bad)}"
)


def write_page(found: Assessment, path: Path) -> Path:
    """Write the page, whole or not at all."""
    return write_atomic(path, page(f"Evaluation {found.run_id}", render(found), STYLE))


def render(found: Assessment) -> str:
    """The body of the page."""
    plan = found.plan
    against = f" against {plan.baseline.name}" if plan.baseline else ""
    parts = [
        f"<h1>{escape(plan.candidate.name + against)}</h1>",
        f'<p class="sub">evaluation <span class="mono">{escape(found.run_id)}</span> · {escape(plan.candidate.kind)}</p>',
        _gates(found),
        _list("What to know", found.warnings),
    ]
    for name, one in found.sets.items():
        parts.append(_figures(name, one, found.comparisons.get(name, {})))
        for metric, details in one.result.details.items():
            if "matrix" in details:
                parts.append(_section(f"{name}: confusion", confusion_svg(details, f"{metric} on {name}")))
                break
        if name in found.baseline and one.answers:
            parts.append(_flips(name, one, found.baseline[name], found.comparisons.get(name, {})))
        parts.append(_missed(name, found.clusters.get(name, [])))
    parts += [_benchmarks(found.benchmarks), _generations(found.generations)]
    return "".join(parts)


def _section(title: str, content: str) -> str:
    return f'<h2>{escape(title)}</h2><div class="card scroll">{content}</div>' if content else ""


def _list(title: str, lines: Sequence[str]) -> str:
    return (
        _section(title, "<ul>" + "".join(f"<li>{escape(w)}</li>" for w in lines) + "</ul>") if lines else ""
    )


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _said(value: Any) -> str:
    text = text_of(value)
    return (
        f'<span style="white-space:pre-wrap">{escape(text[:_LONG])}{" …" if len(text) > _LONG else ""}</span>'
    )


def _range(bounds: Any) -> str:
    return "" if bounds is None else f"{bounds[0]:.4g} to {bounds[1]:.4g}"


def _bar(low: float, value: float, high: float) -> str:
    """A figure in [0, 1] with its interval."""
    if not 0 <= low <= value <= high <= 1:
        return ""
    return (
        '<svg class="bar" viewBox="0 0 220 14" role="img" aria-label="interval"><rect class="t" y="6" width="220" height="2"/>'
        f'<rect class="i" x="{220 * low:.1f}" y="3" width="{220 * (high - low):.1f}" height="8"/>'
        f'<rect class="v" x="{min(218.0, 220 * value):.1f}" y="1" width="2" height="12"/></svg>'
    )


def _figures(name: str, one: Measured, compared: Mapping[str, Comparison]) -> str:
    result = one.result
    rows: list[list[str]] = []
    figures: dict[str, tuple[float, Any]] = {}
    if result.heldout_loss is not None:
        figures["loss"] = (result.heldout_loss, result.heldout_loss_ci)
    figures |= {m: (v, result.metric_ci.get(m)) for m, v in result.task_metrics.items()}
    for metric, (value, bounds) in figures.items():
        row = [escape(metric), f"{value:.4g}", _range(bounds)]
        row.append(_bar(bounds[0], value, bounds[1]) if bounds and metric != "loss" else "")
        if compared:
            c = compared.get(metric)
            row += ["", "", ""] if c is None else [
                f"{c.baseline:.4g}",
                f'<span class="{"ok" if c.gain > 0 else "no" if c.gain < 0 else ""}">{c.delta:+.4g}</span>',
                f"{c.interval.low:+.4g} to {c.interval.high:+.4g}",
            ]  # fmt: skip
        rows.append(row)
    head = ["metric", "figure", f"{result.level:.0%} interval", ""]
    head += ["baseline", "difference", "with noise"] if compared else []
    told = [
        f"{result.eval_n} rows scored" if one.choice else "",
        f"{result.heldout_n} rows with a loss" if result.heldout_n else "",
    ]
    if result.perplexity is not None:
        told.append(f"perplexity {result.perplexity:.4g}")
    if one.choice is not None:
        told.append(f"profile {one.choice.profile.name}: {one.choice.reason}")
    note = f'<p class="soft">{escape(" · ".join(t for t in told if t))}</p>'
    return _section(f"{name}: figures", (_rows(head, rows) if rows else "") + note)


def _gates(found: Assessment) -> str:
    if found.verdict is None:
        return ""
    sets = found.verdict.sets if isinstance(found.verdict, PackVerdict) else {"": found.verdict}
    rows = [
        [
            escape(name),
            escape(o.gate.metric),
            f'<span class="{"ok" if o.held else "no"}">{"held" if o.held else "tripped" if o.blocks else "tolerated"}</span>',
            escape(o.reason),
        ]
        for name, verdict in sets.items()
        for o in verdict.outcomes
    ]
    word = "passed" if found.passed else "did not pass"
    return _section(f"Gates: {word}", _rows(("set", "metric", "outcome", "why"), rows))


def _flips(name: str, one: Measured, before: Measured, compared: Mapping[str, Comparison]) -> str:
    assert one.choice is not None
    first = one.choice.profile.metrics[0]
    if first not in compared:
        return ""
    now = {row.id: (row, a[0].text) for row, a in zip(one.asked, one.answers, strict=True)}
    then = {row.id: a[0].text for row, a in zip(before.asked, before.answers, strict=True)}
    c = compared[first]
    rows = []
    for word, ids in (("worse", c.worsened), ("better", c.improved)):
        for id_ in ids[:SHOWN]:
            row, text = now[id_]
            rows.append(
                [
                    f'<span class="{"no" if word == "worse" else "ok"}">{word}</span>',
                    *map(_said, (row.turns[-1].content, row.reference, then.get(id_, ""), text)),
                ]
            )
    title = f"{name}: {len(c.improved)} rows better, {len(c.worsened)} worse by {first}"
    return _section(title, _rows(("", "asked", "expected", "baseline", "said"), rows)) if rows else ""


def _missed(name: str, found: Sequence[Cluster]) -> str:
    rows = []
    for c in found:
        example = c.examples[0] if c.examples else {"expected": "", "said": ""}
        rows.append(
            [
                escape(c.pattern),
                str(c.count),
                f"{c.share:.0%}",
                _said(example["expected"]),
                _said(example["said"]),
                escape(c.advice),
            ]
        )
    head = ("how", "rows", "of the misses", "expected", "said", "what to add")
    return _section(f"{name}: how rows missed", _rows(head, rows)) if rows else ""


def _benchmarks(found: Mapping[str, Any]) -> str:
    rows = [
        [escape(task), escape(metric), f"{told['value']:.4g}", _range(told.get("ci"))]
        for task, one in found.items()
        for metric, told in one["metrics"].items()
    ]
    return (
        _section("Benchmarks (lm-eval)", _rows(("task", "metric", "figure", "95% interval"), rows))
        if rows
        else ""
    )


def _generations(found: Sequence[Mapping[str, Any]]) -> str:
    keys = [k for k in ("prompt", "expected", "baseline_answer", "answer") if any(k in g for g in found)]
    rows = [[_said(g.get(k, "")) for k in keys] for g in found]
    return _section("Answers", _rows([k.replace("_", " ") for k in keys], rows)) if rows else ""
