"""A run as one HTML page that can be mailed: what was asked, what happened, what came out.

- Made from the run store alone, so it can be made again at any time, for a failed run too.
- One file: style and charts inside, no script, no network; a content policy in the page forbids both.
- Every text of a user, a model or a dataset is escaped; secrets were redacted when they were stored.
- Links to artefacts are relative to the page where they can be, so that a moved output directory keeps them; what
  is no longer there is shown without a link.
- Answers before and after come from `result["answers"]`: a list of {prompt, before, after} and, where known,
  `expected` and `trained` (whether the row was in the training data).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bp_core.runs import plots, remembered
from bp_core.runs.charts import charts
from bp_core.runs.rows import Artifact, Event, RunRecord
from bp_core.runs.table import RunTable
from bp_core.runs.trackers import flat
from bp_core.support.files import dumps, write_atomic

_CSS = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6270;--line:#e1e4ea;--bg:#f6f7f9;--card:#fff;--good:#1a7f4b;--bad:#b3261e;--link:#2158d0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa3b2;--line:#2b323d;--bg:#0e1116;--card:#14181f;--good:#6fd39a;--bad:#ff8a80;--link:#8ab0ff}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:28px 20px 60px}h1{font-size:22px;margin:0 0 2px}h2{font-size:17px;margin:34px 0 10px}
p.sub{color:var(--soft);margin:0 0 18px;overflow-wrap:anywhere}code,.mono{font-family:ui-monospace,Consolas,monospace;font-size:13px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:14px 16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px}.tile .n{font-size:20px;font-weight:600}
.tile .l{color:var(--soft);font-size:13px}.tile .f{color:var(--soft);font-size:13px}.status{font-weight:600}.completed{color:var(--good)}
.failed,.crashed{color:var(--bad)}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:6px 10px 6px 0;vertical-align:top;
border-bottom:1px solid var(--line);overflow-wrap:break-word}td.mono{overflow-wrap:anywhere}th{color:var(--soft);font-weight:500;font-size:13px}tr:last-child td{border-bottom:0}
td.num,th.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.pre{white-space:pre-wrap}.ok{color:var(--good)}.no{color:var(--bad)}
.soft{color:var(--soft)}tr.set td:first-child{font-weight:600}details summary{cursor:pointer;color:var(--soft);margin-top:10px}
a{color:var(--link)}.pair{display:grid;grid-template-columns:1fr 1fr;gap:10px;margin-top:10px}@media(max-width:720px){.pair{grid-template-columns:1fr}}
.scroll{overflow-x:auto}@media print{body{background:#fff}.card{break-inside:avoid}}
"""

# (key of the result, label, how it is shown), in the order of the tiles.
_TILES: tuple[tuple[str, str, str], ...] = (
    ("steps", "steps", "count"),
    ("tokens", "tokens trained on", "count"),
    ("seconds", "training time", "time"),
    ("tokens_per_second", "tokens per second", "count"),
    ("peak_memory", "peak memory", "bytes"),
    ("rows_accepted", "rows accepted", "count"),
    ("rows_rejected", "rows rejected", "count"),
)
_BEFORE_AFTER: tuple[tuple[str, str, str, bool], ...] = (
    ("heldout_loss_before", "heldout_loss_after", "Held-out loss", False),
    ("exact_match_before", "exact_match_after", "Exact match, trained questions", True),
    ("unseen_match_before", "unseen_match_after", "Exact match, unseen phrasings", True),
    ("untaught_match_before", "untaught_match_after", "Exact match, facts that were not taught", True),
)


def write_report(store: RunTable, run_id: str, path: Path | None = None) -> Path:
    """Write the report of a run and return its path, `<run>/report.html` unless given.

    Raises:
        BpError: `INPUT_RUN_NOT_FOUND`, `INPUT_RUN_AMBIGUOUS`.
        OSError: the page cannot be written.
    """
    record = store.get(run_id)
    target = path or record.path / "report.html"
    return write_atomic(target, render(store, record.run_id, target.parent))


def render(store: RunTable, run_id: str, folder: Path) -> str:
    """The page as text; `folder` is where it will stand, for its links."""
    record = store.get(run_id)
    drawn = charts(store, record.run_id)
    body = [
        _head(record),
        _tiles(record, {name: value for name, (_, value) in store.latest(record.run_id).items()}),
        _before_after(record.result),
        remembered.section(record.result),
        _section("Curves", f'<div class="card">{plots.svg(drawn[0], styled=False)}</div>{_charts(drawn[1:])}')
        if record.kind != "multi-run"
        else "",
        _answers(record.result.get("answers")),
        _dataset(record.dataset),
        _artifacts(store.artifacts(record.run_id), folder),
        _events(store.events(record.run_id), record.created_at),
        _config(record),
        _environment(record),
    ]
    style = f"{plots.STYLE}.bp-chart{{background:transparent}}"
    return page(f"{record.name or record.kind} {record.run_id}", "".join(body), style)


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page that loads nothing.

    Args:
        title: as text.
        body: as HTML.
        style: CSS beside that of all reports.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_CSS}{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


# --------------------------------------------------------------------------------------------- parts


def _head(r: RunRecord) -> str:
    base = r.base_model.get("ref") or flat(r.config).get("model.model", "")
    facts = [escape(str(base)), _date(r.created_at), f"seed {r.seed}" if r.seed is not None else ""]
    error = r.result.get("error")
    told = f'<p class="card no">{escape(str(error))}</p>' if error else ""
    return (
        f"<h1>{escape(r.name or ('Session of runs' if r.kind == 'multi-run' else 'Training run'))}</h1>"
        f'<p class="sub"><span class="status {escape(r.status)}">{escape(r.status)}</span> · '
        f'<span class="mono">{escape(r.run_id)}</span> · {" · ".join(f for f in facts if f)}</p>{told}'
    )


def _tiles(r: RunRecord, latest: Mapping[str, float]) -> str:
    tiles = []
    for key, label, how in _TILES:
        value = r.result.get(key, latest.get(key) if key in ("tokens_per_second",) else None)
        value = r.step if value is None and key == "steps" else value
        if value is None:
            continue
        asked = r.result.get("steps_requested")
        note = (
            f'<div class="f">of {asked} asked for</div>'
            if key == "steps" and asked not in (None, value)
            else ""
        )
        tiles.append(
            f'<div class="card tile"><div class="n">{_shown(value, how)}</div><div class="l">{label}</div>{note}</div>'
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _before_after(result: Mapping[str, Any]) -> str:
    rows = []
    for before, after, label, higher in _BEFORE_AFTER:
        a, b = result.get(before), result.get(after)
        if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
            continue
        better = b > a if higher else b < a
        mark = "better" if better else "the same" if a == b else "worse"
        cells = [_shown(v, "share" if higher else "loss") for v in (a, b)]
        rows.append(
            f'<tr><td>{label}</td><td class="num">{cells[0]}</td><td class="num">{cells[1]}</td>'
            f'<td class="{"ok" if better else "soft" if a == b else "no"}">{mark}</td></tr>'
        )
    if not rows:
        return ""
    head = '<tr><th>What was measured</th><th class="num">Before</th><th class="num">After</th><th></th></tr>'
    return _section("Before and after", f'<div class="card"><table>{head}{"".join(rows)}</table></div>')


def _answers(answers: Any) -> str:
    if not isinstance(answers, Sequence) or isinstance(answers, str) or not answers:
        return ""
    expected = any(isinstance(a, Mapping) and a.get("expected") is not None for a in answers)
    rows = []
    for a in answers:
        if not isinstance(a, Mapping):
            continue
        note = {True: "trained on", False: "not trained on"}.get(a.get("trained"), "")  # type: ignore[arg-type]
        cells = [f'<td class="pre">{escape(str(a.get("prompt", "")))}<div class="soft">{note}</div></td>']
        for key in ("before", "after"):
            text = str(a.get(key, ""))
            right = expected and a.get("expected") is not None and text.strip() == str(a["expected"]).strip()
            cells.append(
                f'<td class="pre{" ok" if right else ""}">{escape(text)}{" ✓" if right else ""}</td>'
            )
        if expected:
            cells.append(f'<td class="pre">{escape(str(a.get("expected") or ""))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "<th>Question</th><th>Before</th><th>After</th>" + ("<th>Expected</th>" if expected else "")
    return _section(
        "Answers", f'<div class="card scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _charts(drawn: Iterable[plots.Chart]) -> str:
    cards = [f'<div class="card">{plots.svg(c, width=560, height=300, styled=False)}</div>' for c in drawn]
    return f'<div class="pair">{"".join(cards)}</div>' if cards else ""


def _dataset(dataset: Mapping[str, Any]) -> str:
    if not dataset:
        return ""
    hidden = {"heldout_ids", "weights"}
    rows = [
        (key.replace("_", " "), _text(value))
        for key, value in flat({k: v for k, v in dataset.items() if k not in hidden}).items()
        if value not in (None, [], {}) and key != "sources"
    ]
    for source in dataset.get("sources") or []:
        if isinstance(source, Mapping):
            facts = ", ".join(f"{k} {_text(v)}" for k, v in source.items() if k != "source")
            rows.append(("source", f"{source.get('source', '')}" + (f" ({facts})" if facts else "")))
    if ids := dataset.get("heldout_ids"):
        rows.append(("held-out rows recorded", str(len(ids))))
    return _section("Dataset", _table(rows))


def _artifacts(artifacts: Sequence[Artifact], folder: Path) -> str:
    rows = []
    for a in artifacts:
        path = a.path
        try:
            link = Path(os.path.relpath(path, folder.absolute())).as_posix()
        except ValueError:  # another drive
            link = path.as_posix()
        label = escape(link)
        if path.exists():
            label = f'<a href="{escape(quote(link))}">{label}</a>'
        else:
            label += ' <span class="soft">(no longer there)</span>'
        meta = ", ".join(f"{k} {_text(v)}" for k, v in a.meta.items())
        rows.append(
            f'<tr><td>{escape(a.kind)}</td><td class="mono">{label}</td><td class="soft">{escape(meta)}</td></tr>'
        )
    if not rows:
        return ""
    return _section("Files", f'<div class="card scroll"><table>{"".join(rows)}</table></div>')


def _events(events: Sequence[Event], start: float) -> str:
    rows = [
        f'<tr><td class="num soft">+{_shown(e.time - start, "time")}</td><td class="num soft">{e.step}</td>'
        f'<td class="mono">{escape(e.code)}</td><td>{escape(e.message)}</td></tr>'
        for e in events[:500]
    ]
    if not rows:
        return ""
    more = (
        f'<p class="soft">{len(events) - 500} later events are in the run store.</p>'
        if len(events) > 500
        else ""
    )
    table = f"<table><tr><th>Time</th><th>Step</th><th>Event</th><th></th></tr>{''.join(rows)}</table>{more}"
    return _section("What happened", f'<div class="card scroll">{table}</div>')


def _config(r: RunRecord) -> str:
    rows = {"set": [], "default": []}
    sources = flat(r.sources)
    for key, value in flat(r.config).items():
        source = str(sources.get(key, "default"))
        group = "default" if source.startswith("default") else "set"
        rows[group].append(
            f'<tr class="{group}"><td>{escape(key)}</td><td class="mono">{escape(_text(value))}</td>'
            f'<td class="soft">{escape(source)}</td></tr>'
        )
    if not rows["set"] and not rows["default"]:
        return ""
    head = "<tr><th>Setting</th><th>Value</th><th>From</th></tr>"
    shown = (
        f"<table>{head}{''.join(rows['set'])}</table>"
        if rows["set"]
        else '<p class="soft">All settings are defaults.</p>'
    )
    rest = (
        f"<details><summary>{len(rows['default'])} settings at their defaults</summary>"
        f"<table>{head}{''.join(rows['default'])}</table></details>"
    )
    return _section("Settings", f'<div class="card scroll">{shown}{rest if rows["default"] else ""}</div>')


def _environment(r: RunRecord) -> str:
    facts = flat(r.environment)
    rows = []
    for key, value in facts.items():
        if value in (None, [], ""):
            continue
        size = key in ("memory_total", "memory_free", "disk_free") and isinstance(value, (int, float))
        rows.append(
            (
                key.removeprefix("packages.").replace("_", " "),
                _shown(value, "bytes") if size else _text(value),
            )
        )
    if not rows:
        return ""
    return _section(
        "Environment", f"<details><summary>versions and hardware</summary>{_table(rows)}</details>"
    )


# -------------------------------------------------------------------------------------------- helpers


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><td>{escape(k)}</td><td class="mono">{escape(v)}</td></tr>' for k, v in rows)
    return f'<div class="card scroll"><table>{cells}</table></div>'


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, str):
        return value
    return dumps(value)


def _shown(value: Any, how: str) -> str:
    if not isinstance(value, (int, float)):
        return escape(str(value))
    if how == "count":
        return f"{value:,.0f}".replace(",", "\u202f")
    if how == "share":
        return f"{value:.1%}"
    if how == "loss":
        return f"{value:.4f}"
    if how == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
    minutes, seconds = divmod(float(value), 60)
    if value < 60:
        return f"{value:.1f} s"
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {int(seconds):02d} s"


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
