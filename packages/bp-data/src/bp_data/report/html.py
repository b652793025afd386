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
from typing import Any

from bp_data.report.figures import Figures

_HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_STYLE = """
:root{color-scheme:light dark;--fg:#1c2126;--bg:#fff;--soft:#f2f4f6;--line:#d8dde2;--bar:#3b6fb6;--ok:#1a7f4b;--warn:#8f5200;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--fg:#e4e7ea;--bg:#16191c;--soft:#21262b;--line:#363d44;--bar:#7aa7e0;--ok:#5fce97;--warn:#e6ac55;--bad:#f28b82}}
*{box-sizing:border-box}body{margin:0 auto;padding:24px;max-width:980px;font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);overflow-wrap:break-word}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:36px 0 8px}p{margin:6px 0}ul{margin:6px 0;padding-left:20px}
.verdict{display:inline-block;padding:3px 12px;border-radius:4px;font-weight:600;color:var(--bg)}.PASS{background:var(--ok)}.WARN{background:var(--warn)}.FAIL{background:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:16px 0}.cards div{background:var(--soft);border-radius:6px;padding:10px 12px}.cards b{display:block;font-size:20px;line-height:1.3}
@media(max-width:640px){body{padding:16px}.cards{grid-template-columns:repeat(2,1fr)}}
.scroll{overflow-x:auto}table{border-collapse:collapse;min-width:min(100%,420px)}td,th{text-align:left;padding:4px 18px 4px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;font-size:13px}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td:first-child{white-space:nowrap}
td.bar{width:240px;min-width:90px;padding-right:0}td.bar i{display:block;height:10px;margin-top:6px;min-width:1px;background:var(--bar);border-radius:2px}
pre{background:var(--soft);padding:10px;border-radius:6px;white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0}del{color:var(--bad)}ins{color:var(--ok);text-decoration-thickness:2px}
svg{display:block;width:100%;height:150px}svg rect{fill:var(--bar)}.axis{display:flex;justify-content:space-between;border-top:1px solid var(--line);font-size:12px;padding-top:2px}
details{margin:6px 0}summary{cursor:pointer}.soft{opacity:.75}
"""


def _text(value: Any) -> str:
    shown = _HIDDEN.sub(lambda m: f"\\u{ord(m.group()):04x}", str(value))
    return html.escape(shown, quote=True)


def _bars(bins: list[tuple[str, int]], label: str) -> str:
    """A histogram: (label, rows) per bar. Bars stretch with the page, the labels below keep their size."""
    if not bins:
        return ""
    top, width = max(n for _, n in bins) or 1, 900 / len(bins)
    out = [f'<svg viewBox="0 0 900 150" preserveAspectRatio="none" role="img" aria-label="{_text(label)}">']
    for i, (name, n) in enumerate(bins):
        height = max(150 * n / top, 1 if n else 0)
        out.append(
            f'<rect x="{i * width:.2f}" y="{150 - height:.2f}" width="{max(1, width - 2):.2f}" height="{height:.2f}">'
            f"<title>{_text(name)}: {n:,}</title></rect>"
        )
    marks = sorted({round(k * (len(bins) - 1) / 4) for k in range(5)})
    axis = "".join(f"<span>{_text(bins[i][0])}</span>" for i in marks)
    return "".join([*out, f'</svg><div class="axis">{axis}</div>'])


def _table(rows: list[tuple[Any, ...]], head: tuple[str, ...]) -> str:
    """Numbers are set to the right; a float is a share, shown as a bar too."""
    if not rows:
        return '<p class="soft">none</p>'
    out = ['<div class="scroll"><table><tr>']
    for i, name in enumerate(head):
        kind = rows[0][i]
        out.append(
            f'<th class="n">{_text(name)}</th>'
            if isinstance(kind, (int, float))
            else f"<th>{_text(name)}</th>"
        )
        out.append("<th></th>" if isinstance(kind, float) else "")
    out.append("</tr>")
    for row in rows:
        out.append("<tr>")
        for cell in row:
            if isinstance(cell, float):
                out.append(
                    f'<td class="n">{cell:.1%}</td><td class="bar"><i style="width:{100 * cell:.1f}%"></i></td>'
                )
            else:
                out.append(
                    f'<td class="n">{cell:,}</td>' if isinstance(cell, int) else f"<td>{_text(cell)}</td>"
                )
        out.append("</tr>")
    return "".join([*out, "</table></div>"])


def _shares(counts: dict[str, int], name: str, what: str = "rows") -> str:
    """A table of counts, each with its share of the whole."""
    whole = sum(counts.values()) or 1
    return _table([(key, n, n / whole) for key, n in counts.items()], (name, what, "share"))


def _diff(a: str, b: str) -> str:
    """The second text against the first, by words."""
    x, y = a.split(), b.split()
    out = []
    steps = difflib.SequenceMatcher(None, x, y, autojunk=False).get_opcodes()
    if a.endswith("…") and len(steps) > 2 and steps[-1][0] == "equal" and steps[-1][1] == len(x) - 1:
        del steps[-2]  # both were cut off, at different words: that is no difference
    for op, i, j, k, l in steps:
        if op == "equal":
            out.append(_text(" ".join(x[i:j])))
            continue
        if i < j:
            out.append(f"<del>{_text(' '.join(x[i:j]))}</del>")
        if k < l:
            out.append(f"<ins>{_text(' '.join(y[k:l]))}</ins>")
    return " ".join(out)


def to_html(report: Figures) -> str:
    """One self-contained page, under 300 kB."""
    r, d, c, t, o = report, report.near_duplicates, report.contamination, report.tokens, report.outliers
    mark = "≈ " if t["estimated"] else ""
    cards = [
        ("rows", f"{r.rows_total:,}"), ("rejected", f"{r.rows_rejected:,}"), ("tokens", f"{mark}{t['count']:,}"),
        ("exact duplicates", f"{r.exact_duplicates:,}"), ("near duplicates", f"{r.near_duplicate_rows:,}"),
        ("contaminated", f"{c['rows']:,}" if c["checked"] else "not checked"), ("outliers", f"{o['rows']:,}"),
        ("rows with secrets or PII", f"{r.pii['rows']:,}"),
    ]  # fmt: skip
    rejected = [
        (reason, n, ", ".join(r.rejected[reason]["rows"][:5]), r.rejected[reason]["hint"])
        for reason, n in r.rejections.items()
    ]
    told = [*(f"Failed: {text}" for text in r.failed_thresholds), *r.warnings]
    body = [
        f"<h1>{_text(r.dataset)}</h1>",
        f'<p><span class="verdict {_text(r.verdict)}">{_text(r.verdict)}</span></p>',
        f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in told)}</ul>" if told else "",
        '<div class="cards">', *(f"<div><b>{_text(v)}</b>{_text(k)}</div>" for k, v in cards), "</div>",
        "<h2>Rows</h2>", _shares(r.formats, "format"),
        *(["<h2>Rejected rows</h2>", _table(rejected, ("reason", "rows", "first", "expected"))] if rejected else []),
        "<h2>Tokens per row</h2>",
        _bars([(f"{a:,}–{b - 1:,}" if b - a > 1 else f"{a:,}", n) for a, b, n in t["histogram"]], "tokens per row"),
        f"<p>p50 {t['p50']:,} · p90 {t['p90']:,} · p95 {t['p95']:,} · p99 {t['p99']:,} · max {t['max']:,}. "
        f"Counted by: {_text(t['how'])}.</p>",
        "<h2>Turns</h2>", _shares(dict(list(r.turns["histogram"].items())[:12]), "turns in a row"),
        _shares(r.turns["roles"], "role", "messages"),
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
            body.append(
                f"<details><summary>{_text(head)}</summary><pre>{_diff(e['item_text'], e['text'])}</pre></details>"
            )
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
        "<h2>Script and language</h2>", _shares(r.scripts, "script"),
        _shares(
            dict(list(r.languages.items())[:20]),
            "language" if r.languages_of == r.rows_accepted else f"language, of {r.languages_of:,} rows drawn evenly",
        ),
        "<h2>Reasoning traces</h2>",
    ]  # fmt: skip
    g = r.reasoning
    body.append(
        f"<p>In {g['with_trace']:,} of {g['answers']:,} answers ({g['rate']:.1%}); words p50 {g['words_p50']:,} · p95 "
        f"{g['words_p95']:,} · max {g['words_max']:,}; {g['unbalanced']:,} with unbalanced tags, {g['empty']:,} empty.</p>"
        if g["with_trace"]
        else '<p class="soft">No answer has one.</p>'
    )
    data = json.dumps(r.to_dict(), ensure_ascii=True, sort_keys=True, default=str)
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Dataset report: {_text(r.dataset)}</title><style>{_STYLE}</style></head><body>{''.join(body)}"
        f'<script type="application/json" id="report">{data}</script></body></html>\n'
    )
