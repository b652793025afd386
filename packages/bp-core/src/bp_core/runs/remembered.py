"""What a session's result says of remembering, as people read it: text, chart, a part of the report. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from bp_core.runs import plots

FIGURES = (("exact_match", "Exact match"), ("loss", "Held-out loss, nats per label"))


def chart(forgetting: Mapping[str, Any]) -> plots.Chart:
    """Exact match of each task after each run."""
    matrix = forgetting["exact_match"]["matrix"]
    series = [
        plots.Series(name, [(float(i), row[j]) for i, row in enumerate(matrix)], "dots", j % 4)
        for j, name in enumerate(forgetting["tasks"])
    ]
    title = "Exact match of each task after each run"
    return plots.Chart(title, series, x_label="run", log=False, zero=True)


def remembered(result: Mapping[str, Any]) -> str:
    """The matrix, the transfers and the comparison of merges as text; "" where nothing was held out."""
    found = result.get("forgetting")
    if not found:
        return ""
    parts = [_matrix(found, name, title) for name, title in FIGURES]
    if compared := result.get("compared"):
        parts.append(_compared(compared, str(result.get("strategy")), str(result.get("best_strategy"))))
    return "\n\n".join(parts)


def _matrix(found: Mapping[str, Any], name: str, title: str) -> str:
    tasks = [t if len(t) <= 14 else t[:13] + "…" for t in found["tasks"]]
    lines = [f"{title}", "after run  " + "  ".join(f"{t:>14}" for t in tasks)]
    for i, row in enumerate(found[name]["matrix"]):
        lines.append(f"{'before' if i == 0 else i!s:<9}  " + "  ".join(f"{v:>14.3f}" for v in row))
    lines.append("  ".join(f"{label} {value:.3f}" for label, value in _figures(found[name])))
    return "\n".join(lines)


def _figures(found: Mapping[str, Any]) -> list[tuple[str, float]]:
    named = [("average", found["average"]), ("backward transfer", found["backward_transfer"])]
    return [(n, v) for n, v in [*named, ("forward transfer", found["forward_transfer"])] if v is not None]


def _compared(compared: Mapping[str, Any], own: str, best: str) -> str:
    lines = ["By the held-out rows, merging the stored adapters would give"]
    for name, row in compared.items():
        note = ", ".join(x for x, is_so in (("this session", name == own), ("best", name == best)) if is_so)
        told = f"exact match {row['exact_match']:.3f}  loss {row['loss']:.3f}"
        lines.append(f"{name:<16}  {told}" + (f"  ({note})" if note else ""))
    return "\n".join(lines)


def section(result: Mapping[str, Any]) -> str:
    """The same for the report, as HTML; "" where there is no session."""
    if "forgetting" not in result:
        return ""
    runs = "".join(
        f'<tr><td class="mono">{escape(str(r["run_id"]))}</td><td>{escape(str(r["task"]))}</td>'
        f'<td class="{"ok" if r["accepted"] else "no"}">{"merged" if r["accepted"] else escape(str(r["reason"]))}</td></tr>'
        for r in result.get("runs", ())
    )
    parts = [
        f'<div class="card scroll"><table><tr><th>Run</th><th>Task</th><th></th></tr>{runs}</table></div>'
    ]
    found = result["forgetting"]
    if found:
        parts.append(f'<div class="card">{plots.svg(chart(found), styled=False)}</div>')
        parts += [_table(found, name, title) for name, title in FIGURES]
    if compared := result.get("compared"):
        rows = "".join(
            f'<tr class="{"set" if name == result.get("best_strategy") else ""}"><td>{escape(name)}</td>'
            f'<td class="num">{row["exact_match"]:.3f}</td><td class="num">{row["loss"]:.3f}</td></tr>'
            for name, row in compared.items()
        )
        head = '<tr><th>Merge of the stored adapters</th><th class="num">Exact match</th><th class="num">Loss</th></tr>'
        parts.append(f'<div class="card scroll"><table>{head}{rows}</table></div>')
    return f"<section><h2>What was remembered</h2>{''.join(parts)}</section>"


def _table(found: Mapping[str, Any], name: str, title: str) -> str:
    head = "".join(f'<th class="num">{escape(t)}</th>' for t in found["tasks"])
    rows = "".join(
        f"<tr><td>{'before' if i == 0 else f'after run {i}'}</td>"
        + "".join(f'<td class="num">{v:.3f}</td>' for v in row)
        + "</tr>"
        for i, row in enumerate(found[name]["matrix"])
    )
    told = ", ".join(f"{label} {value:.3f}" for label, value in _figures(found[name]))
    return (
        f'<div class="card scroll"><table><tr><th>{escape(title)}</th>{head}</tr>{rows}</table>'
        f'<p class="soft">{told}</p></div>'
    )
