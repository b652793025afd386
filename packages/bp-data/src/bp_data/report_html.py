"""The report as one page: no script, no request, everything escaped.

- Its size depends on the number of checks, not of rows: charts are bins, examples are capped.
- Dataset text is hostile input: every string is escaped, control and direction-changing characters become visible.
- Charts are inline SVG with a <title> per bar; the numbers of the JSON report stand in a data block at the end.
"""

from __future__ import annotations

import difflib
import html
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bp_data.report import Report

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_STYLE = """
:root{color-scheme:light dark;--fg:#1c2126;--bg:#fff;--soft:#f2f4f6;--line:#d8dde2;--bar:#3b6fb6;--ok:#1a7f4b;--warn:#a15c00;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--fg:#e4e7ea;--bg:#16191c;--soft:#21262b;--line:#363d44;--bar:#7aa7e0;--ok:#5fce97;--warn:#e6ac55;--bad:#f28b82}}
*{box-sizing:border-box}body{margin:0 auto;padding:24px;max-width:980px;font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg)}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:32px 0 8px}p{margin:6px 0}
.verdict{display:inline-block;padding:3px 12px;border-radius:4px;font-weight:600;color:var(--bg)}.PASS{background:var(--ok)}.WARN{background:var(--warn)}.FAIL{background:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;margin:16px 0}.cards div{background:var(--soft);border-radius:6px;padding:10px 12px}.cards b{display:block;font-size:20px}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{background:var(--soft);padding:10px;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0}del{color:var(--bad)}ins{color:var(--ok)}
svg{width:100%;height:auto}svg rect{fill:var(--bar)}svg text{fill:var(--fg);font:11px system-ui,sans-serif}details{margin:6px 0}summary{cursor:pointer}.soft{opacity:.75}
"""


def _text(value: Any) -> str:
    shown = _HIDDEN.sub(lambda m: f"\\u{ord(m.group()):04x}", str(value))
    return html.escape(shown, quote=True)


def _bars(bins: list[tuple[str, int]], label: str) -> str:
    """A histogram: (label, rows) per bar."""
    if not bins:
        return ""
    top, width = max(n for _, n in bins) or 1, 900 / len(bins)
    out = [f'<svg viewBox="0 0 900 190" role="img" aria-label="{_text(label)}">']
    for i, (name, n) in enumerate(bins):
        height = 150 * n / top
        out.append(
            f'<rect x="{i * width:.2f}" y="{160 - height:.2f}" width="{max(1, width - 2):.2f}" height="{height:.2f}">'
            f"<title>{_text(name)}: {n:,}</title></rect>"
        )
    marks = sorted({0, len(bins) // 4, len(bins) // 2, 3 * len(bins) // 4, len(bins) - 1})
    for i in marks:
        anchor = "start" if i == 0 else "end" if i == len(bins) - 1 and len(bins) > 1 else "middle"
        place = 0 if i == 0 else 900 if anchor == "end" else (i + 0.5) * width
        out.append(f'<text x="{place:.2f}" y="178" text-anchor="{anchor}">{_text(bins[i][0])}</text>')
    return "".join([*out, "</svg>"])


def _table(rows: list[tuple[Any, ...]], head: tuple[str, ...]) -> str:
    if not rows:
        return '<p class="soft">none</p>'
    out = ["<table><tr>", *(f"<th>{_text(name)}</th>" for name in head), "</tr>"]
    for row in rows:
        cells = (
            f'<td class="n">{cell:,}</td>' if isinstance(cell, int) else f"<td>{_text(cell)}</td>"
            for cell in row
        )
        out.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*out, "</table>"])


def _diff(a: str, b: str) -> str:
    """The second text against the first, by words."""
    x, y = a.split(), b.split()
    out = []
    for op, i, j, k, l in difflib.SequenceMatcher(None, x, y, autojunk=False).get_opcodes():
        if op == "equal":
            out.append(_text(" ".join(x[i:j])))
            continue
        if i < j:
            out.append(f"<del>{_text(' '.join(x[i:j]))}</del>")
        if k < l:
            out.append(f"<ins>{_text(' '.join(y[k:l]))}</ins>")
    return " ".join(out)


def to_html(report: Report) -> str:
    """One self-contained page, under 300 kB."""
    r, d, c, t, o = report, report.near_duplicates, report.contamination, report.tokens, report.outliers
    mark = "≈ " if t["estimated"] else ""
    cards = [
        ("rows", f"{r.rows_total:,}"), ("rejected", f"{r.rows_rejected:,}"), ("tokens", f"{mark}{t['count']:,}"),
        ("exact duplicates", f"{r.exact_duplicates:,}"), ("near duplicates", f"{r.near_duplicate_rows:,}"),
        ("contaminated", f"{c['rows']:,}" if c["checked"] else "not checked"), ("outliers", f"{o['rows']:,}"),
        ("rows with secrets or PII", f"{r.pii['rows']:,}"),
    ]  # fmt: skip
    body = [
        f"<h1>{_text(r.dataset)}</h1>",
        f'<p><span class="verdict {_text(r.verdict)}">{_text(r.verdict)}</span></p>',
        *(f"<p>Failed: {_text(text)}</p>" for text in r.failed_thresholds),
        *(f"<p>{_text(text)}</p>" for text in r.warnings),
        '<div class="cards">', *(f"<div><b>{_text(v)}</b>{_text(k)}</div>" for k, v in cards), "</div>",
        "<h2>Rows</h2>", _table(list(r.formats.items()), ("format", "rows")),
        *(["<h2>Rejected rows</h2>", _table(list(r.rejections.items()), ("reason", "rows"))] if r.rejections else []),
        "<h2>Tokens per row</h2>",
        _bars([(f"{a:,}–{b - 1:,}" if b - a > 1 else f"{a:,}", n) for a, b, n in t["histogram"]], "tokens per row"),
        f"<p>p50 {t['p50']:,} · p90 {t['p90']:,} · p95 {t['p95']:,} · p99 {t['p99']:,} · max {t['max']:,}. "
        f"Counted by: {_text(t['how'])}.</p>",
        "<h2>Turns</h2>", _bars([(k, n) for k, n in r.turns["histogram"].items()], "turns per row"),
        _table(list(r.turns["roles"].items()), ("role", "messages")),
        "<h2>Duplicates</h2>",
        f"<p>{r.exact_duplicates:,} exact; {r.near_duplicate_rows:,} near in {r.near_duplicate_clusters:,} clusters. "
        f"Jaccard similarity of {_text(d['shingle'])}, at least {d['threshold']}; {d['candidates_verified']:,} candidates, "
        f"each verified; {_text(d['rule'])}; capped buckets: {d['capped_buckets']:,}.</p>",
    ]  # fmt: skip
    for cluster in d["clusters"][:5]:
        body.append(
            f"<details><summary>{cluster['rows']:,} rows: keep {_text(cluster['keep'])}, drop "
            f"{_text(', '.join(cluster['drop'][:5]))}</summary><pre>{_diff(*cluster['texts'])}</pre></details>"
        )
    body.append("<h2>Contamination</h2>")
    if c["checked"]:
        body.append(_table([(f["file"], f["items"], f["rows"], f["items_compromised"]) for f in c["against"]],
                           ("file", "items", "training rows", "items compromised")))  # fmt: skip
        body.append(
            f"<p>Rule: {_text(c['rule'])}. Equal {c['exact']:,}, similar {c['near']:,}, by 13-grams "
            f"{c['ngram_13_coverage']:,}; {c['review_13_any']:,} more share a 13-gram, {c['any_8']:,} share an 8-gram; "
            f"{c['fields_too_short']:,} fields were too short to check.</p>"
        )
        for e in c["examples"][:5]:
            head = f"{e['row']} against {e['item']}: {e['why']}"
            body.append(f"<details><summary>{_text(head)}</summary><pre>{_text(e['text'])}</pre></details>")
    else:
        body.append('<p class="soft">No held-out or benchmark file was named.</p>')
    found = [
        (kind, n, ", ".join(r.pii["where"].get(kind, [])[:5]))
        for kind, n in {**r.pii["secrets"], **r.pii["personal"]}.items()
    ]
    body += [
        "<h2>Secrets and personal data</h2>", _table(found, ("kind", "found", "first rows")),
        "<h2>Outliers</h2>",
        _table([(k, o[k], ", ".join(o["where"].get(k, [])[:5])) for k in ("short", "long", "repetitive", "format")], ("kind", "rows", "first rows")),
        "<h2>Script and language</h2>", _table(list(r.scripts.items()), ("script", "rows")),
        _table(list(r.languages.items())[:20], ("language", "rows")),
        "<h2>Reasoning traces</h2>", _table([(k, v) for k, v in r.reasoning.items()], ("figure", "value")),
    ]  # fmt: skip
    data = json.dumps(r.to_dict(), ensure_ascii=True, sort_keys=True, default=str)
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Dataset report: {_text(r.dataset)}</title><style>{_STYLE}</style></head><body>{''.join(body)}"
        f'<script type="application/json" id="report">{data}</script></body></html>\n'
    )
