"""The report for a terminal: one line per figure, the verdict last."""

from __future__ import annotations

from bp_data.report.figures import Figures


def _mix(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in list(counts.items())[:8]) or "none"


def to_text(report: Figures) -> str:
    """Plain text, about 20 lines."""
    r, d, c, t, o = report, report.near_duplicates, report.contamination, report.tokens, report.outliers
    mark = "~" if t["estimated"] else ""
    lines = [
        f"dataset          {r.dataset}",
        f"rows             {r.rows_total:,}: {r.rows_accepted:,} accepted, {r.rows_rejected:,} rejected",
        f"rejections       {_mix(r.rejections)}",
        f"formats          {_mix(r.formats)}",
        f"exact duplicates {r.exact_duplicates:,}",
        f"near duplicates  {r.near_duplicate_rows:,} rows in {r.near_duplicate_clusters:,} clusters "
        f"(Jaccard >= {d['threshold']} of {d['shingle']}, every pair verified)"
        + (f"; {d['templated_rows']:,} rows without the template they share" if d["templated_rows"] else ""),
        f"tokens           {mark}{t['count']:,}; per row p50 {mark}{t['p50']:,}, p95 {mark}{t['p95']:,}, "
        f"max {mark}{t['max']:,} ({t['how']})",
        f"turns            mean {r.turns['mean']}, max {r.turns['max']}; {_mix(r.turns['roles'])}",
        f"outliers         {o['rows']:,}: {o['short']:,} short, {o['long']:,} long, {o['repetitive']:,} repetitive, "
        f"{o['format']:,} in a rare format",
        f"scripts          {_mix(r.scripts)}",
        f"languages        {_mix(r.languages)}"
        + (f" (of {r.languages_of:,} rows drawn evenly)" if r.languages_of < r.rows_accepted else ""),
        f"secrets          {_mix(r.pii['secrets'])}",
        f"personal data    {_mix(r.pii['personal'])}",
    ]
    if r.reasoning["with_trace"]:
        g = r.reasoning
        lines.append(
            f"reasoning        {g['with_trace']:,} of {g['answers']:,} answers; words p50 {g['words_p50']:,}, "
            f"p95 {g['words_p95']:,}; {g['unbalanced']:,} unbalanced"
        )
    if c["checked"]:
        lines.append(
            f"contamination    {c['rows']:,} rows ({c['rate']:.2%}): {c['exact']:,} equal, {c['near']:,} similar, "
            f"{c['ngram_13_coverage']:,} by 13-grams; review {c['review_13_any']:,}; any 8-gram {c['any_8']:,}"
        )
        lines += [
            f"                 {f['file']}: {f['items_compromised']:,} of {f['items']:,} items compromised"
            for f in c["against"]
        ]
    lines += [f"warning          {text}" for text in r.warnings]
    lines += [f"failed           {text}" for text in r.failed_thresholds]
    return "\n".join([*lines, f"verdict          {r.verdict}  ({r.seconds:.1f} s)"])
