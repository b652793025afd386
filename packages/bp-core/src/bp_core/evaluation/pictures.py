"""The confusion matrix as SVG: self-contained, without script or font, readable in light and dark.

- A cell's shade is its share of the row (of what was expected), its figure the count; a tooltip says both in words.
- At most 30 classes are drawn, those with the most rows; the rest are told in the caption and stay in the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_CELL, _MOST, _LABEL = 44, 30, 18
STYLE = (
    ".bp-matrix{color:#1c2330;background:#fff;font-family:system-ui,sans-serif;max-width:100%;height:auto}"
    ".bp-matrix text{fill:currentColor;font-size:12px}.bp-matrix .t{font-size:15px;font-weight:600}"
    ".bp-matrix .q{opacity:.72}.bp-matrix .r{fill:#1a7f4b}.bp-matrix .w{fill:#b8430b}"
    ".bp-matrix .b{fill:none;stroke:currentColor;stroke-opacity:.15}.bp-matrix .h{fill:#fff}"
    "@media(prefers-color-scheme:dark){.bp-matrix{color:#e6e9ef;background:#14181f}"
    ".bp-matrix .r{fill:#2f9e68}.bp-matrix .w{fill:#d2691e}}"
)


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _safe(text: str) -> str:
    """Text that XML can hold."""
    kept = "".join(
        c if c in "\t\n" or " " <= c < "\ud800" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "�"
        for c in text
    )
    return escape(kept)


def confusion_svg(details: Mapping[str, Any], title: str = "Confusion matrix") -> str:
    """The matrix of `metrics.classification.confusion` as one `<svg>` element.

    Args:
        details: with `labels`, `columns` and `matrix` (row: expected, column: said).
        title: drawn above.
    """
    labels, columns, matrix = list(details["labels"]), list(details["columns"]), details["matrix"]
    order = sorted(range(len(labels)), key=lambda i: -sum(matrix[i]))[:_MOST]
    kept = sorted(order)
    cols = [*kept, *range(len(labels), len(columns))]
    left = 24 + 7 * max([len(_short(labels[i])) for i in kept], default=4)
    top = 84 + 5 * max([len(_short(columns[j])) for j in cols], default=4)
    width, height = max(320, left + _CELL * len(cols) + 60), top + _CELL * len(kept) + 34
    right = sum(matrix[i][i] for i in range(len(labels)))
    whole = sum(map(sum, matrix))
    told = f"{title}: {right} of {whole} rows are right, {len(labels)} classes"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bp-matrix" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{_safe(told)}"><style>{STYLE}</style>',
        f'<text class="t" x="16" y="24">{_safe(title)}</text>',
        '<text class="q" x="16" y="44">rows: expected · columns: said · shade: share of the row</text>',
    ]
    for at, j in enumerate(cols):
        x, y = left + _CELL * (at + 0.5), top - 8
        parts.append(
            f'<text x="{x:.0f}" y="{y}" transform="rotate(-40 {x:.0f} {y})">{_safe(_short(columns[j]))}</text>'
        )
    for row, i in enumerate(kept):
        y, expected = top + _CELL * row, sum(matrix[i])
        parts.append(
            f'<text x="{left - 8}" y="{y + _CELL / 2 + 4:.0f}" text-anchor="end">{_safe(_short(labels[i]))}</text>'
        )
        for at, j in enumerate(cols):
            x, count = left + _CELL * at, matrix[i][j]
            share = count / expected if expected else 0.0
            box = f'x="{x}" y="{y}" width="{_CELL}" height="{_CELL}"'
            tip = f"expected {labels[i]}, said {columns[j]}: {count} of {expected} ({share:.0%})"
            parts.append(f"<g><title>{_safe(tip)}</title>")
            if count:
                parts.append(
                    f'<rect class="{"r" if i == j else "w"}" fill-opacity="{0.12 + 0.88 * share:.2f}" {box}/>'
                )
            parts.append(f'<rect class="b" {box}/>')
            if count:
                strong = ' class="h"' if share > 0.6 else ""
                parts.append(
                    f'<text{strong} x="{x + _CELL / 2:.0f}" y="{y + _CELL / 2 + 4:.0f}" text-anchor="middle">{count}</text>'
                )
            parts.append("</g>")
    if len(kept) < len(labels):
        parts.append(
            f'<text class="q" x="16" y="{height - 10}">the {len(kept)} most frequent of {len(labels)} classes</text>'
        )
    return "".join(parts) + "</svg>"
