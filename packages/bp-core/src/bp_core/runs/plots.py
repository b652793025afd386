"""Curves of a run as SVG (for the report and any browser) and as PNG (for a README, a ticket, a chat).

- One layout, two renderers: scales, ticks and thinned polylines are computed once, so that both show the same.
- SVG is self-contained: no script, no font, no network; it follows the reader's light or dark scheme.
- A value that is not finite breaks the line and is counted in the caption; it is never joined over.
- Thinning keeps the lowest and the highest value of each pixel column: a spike of one step stays visible.
- A loss that spans more than a factor of 50 is drawn on a logarithmic scale, and the axis says so.
- Smoothing is an exponential mean with bias correction, drawn over the faint raw values, never instead of them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Literal

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 860, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 58, 46
LIGHT = ("#2158d0", "#b8430b", "#1a7f4b", "#8a3ab9")
DARK = ("#8ab0ff", "#ff9d66", "#6fd39a", "#d49bf5")

STYLE = (
    ".bp-chart{color:#1c2330;background:#fff;font-family:system-ui,sans-serif;width:100%;height:auto}"
    ".bp-chart text{fill:currentColor;font-size:13px}.bp-chart .t{font-size:15px;font-weight:600}"
    ".bp-chart .q{opacity:.72}.bp-chart .g{stroke:currentColor;opacity:.13}"
    + "".join(
        f".bp-chart .c{i}{{stroke:{c};fill:{c}}}.bp-chart path.c{i}{{fill:none}}" for i, c in enumerate(LIGHT)
    )
    + "@media(prefers-color-scheme:dark){.bp-chart{color:#e6e9ef;background:#14181f}"
    + "".join(
        f".bp-chart .c{i}{{stroke:{c};fill:{c}}}.bp-chart path.c{i}{{fill:none}}" for i, c in enumerate(DARK)
    )
    + "}"
)


@dataclass(frozen=True)
class Series:
    """One curve: a `line`, a `faint` line behind others, or a line with `dots` at its points."""

    name: str
    points: Points
    style: Literal["line", "faint", "dots"] = "line"
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    """Curves over one x axis."""

    title: str
    series: Sequence[Series]
    x_label: str = "step"
    y_label: str = ""
    log: bool | None = None  # None decides by the span of the values
    zero: bool = False  # the y axis begins at 0


@dataclass(frozen=True)
class _Layout:
    frame: tuple[float, float, float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    curves: list[tuple[Series, list[list[tuple[float, float]]]]]
    log: bool
    lost: int
    values: list[float] = field(default_factory=list)


def smooth(points: Points, weight: float = 0.9) -> list[tuple[float, float]]:
    """Exponential mean with bias correction; values that are not finite are passed over.

    m ← w·m + (1 - w)·y;  shown = m / (1 - w^n)
    """
    out, mean, n = [], 0.0, 0
    for x, y in points:
        if math.isfinite(y):
            n += 1
            mean = weight * mean + (1 - weight) * y
            out.append((x, mean / (1 - weight**n)))
    return out


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within [low, high], at most `count` + 2 of them.

    >>> ticks(0.0, 9.7)
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    found = [
        m * 10.0**e
        for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in (1, 2, 5)
        if low <= m * 10.0**e <= high
    ]
    return found if len(found) <= 8 else [v for v in found if f"{v:e}".startswith("1.0")] or found[::3]


def number(value: float) -> str:
    """A figure for an axis or a tooltip: short, without a needless exponent."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if size >= 1e4:
        return f"{value / 1000:.3g}k"
    return f"{value:.4g}"


def _thin(points: list[tuple[float, float]], columns: int) -> list[tuple[float, float]]:
    """At most two points a pixel column (its lowest and its highest), in their order."""
    if len(points) <= 2 * columns:
        return points
    start, end = points[0][0], points[-1][0]
    buckets: dict[int, list[int]] = {}
    for i, (x, _) in enumerate(points):
        buckets.setdefault(int((x - start) / (end - start or 1) * (columns - 1)), []).append(i)
    kept = {0, len(points) - 1}
    for group in buckets.values():
        kept.add(min(group, key=lambda i: points[i][1]))
        kept.add(max(group, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def _layout(chart: Chart, width: int, height: int) -> _Layout:
    left, top, right, bottom = _LEFT, _TOP, width - _RIGHT, height - _BOTTOM
    finite = [(x, y) for s in chart.series for x, y in s.points if math.isfinite(y)]
    lost = sum(not math.isfinite(y) for s in chart.series for _, y in s.points)
    if not finite:
        return _Layout((left, top, right, bottom), [], [], [], False, lost)
    xs, ys = [x for x, _ in finite], [y for _, y in finite]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    log = chart.log if chart.log is not None else y0 > 0 and y1 / y0 > 50
    log = log and y0 > 0 and not chart.zero
    if x1 == x0:
        x0, x1 = x0 - 1, x1 + 1
    if chart.zero:
        y0 = min(0.0, y0)
    if log:
        y0, y1 = y0 / 1.1, y1 * 1.1
    else:
        margin = (y1 - y0) * 0.06 or abs(y1) * 0.1 or 1.0
        y0, y1 = (y0 if chart.zero and y0 == 0 else y0 - margin), y1 + margin

    def px(x: float) -> float:
        return left + (x - x0) / (x1 - x0) * (right - left)

    def py(y: float) -> float:
        part = math.log(y / y0) / math.log(y1 / y0) if log else (y - y0) / (y1 - y0)
        return bottom - part * (bottom - top)

    curves = []
    for s in chart.series:
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in s.points:
            if math.isfinite(y) and not (log and y <= 0):
                runs[-1].append((px(x), py(y)))
            elif runs[-1]:
                runs.append([])
        curves.append((s, [_thin(r, int(right - left)) for r in runs if r]))
    whole = [t for t in ticks(x0, x1, 8) if t == int(t)] or [x0, x1]
    y_ticks = _log_ticks(y0, y1) if log else ticks(y0, y1)
    return _Layout(
        (left, top, right, bottom),
        [(px(t), number(t)) for t in whole],
        [(py(t), number(t)) for t in y_ticks],
        curves,
        log,
        lost,
        ys,
    )


def _axis_name(chart: Chart, layout: _Layout) -> str:
    return f"{chart.y_label} (log scale)" if layout.log else chart.y_label


def _caption(layout: _Layout) -> str:
    return f"{layout.lost} values are not finite" if layout.lost else ""


def svg(chart: Chart, *, width: int = WIDTH, height: int = HEIGHT, styled: bool = True) -> str:
    """The chart as one `<svg>` element, with its style inside unless the page has `STYLE`."""
    box = _layout(chart, width, height)
    left, _, right, bottom = box.frame
    label = f"{chart.title}: " + "; ".join(_told(s) for s in chart.series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="bp-chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label)}">',
        f"<style>{STYLE}</style>" if styled else "",
        f'<text class="t" x="{left}" y="22">{escape(chart.title)}</text>',
        f'<text class="q" x="{right}" y="22" text-anchor="end">{escape(_axis_name(chart, box))}</text>',
        f'<text class="q" x="{(left + right) / 2:.0f}" y="{height - 10}" text-anchor="middle">{escape(chart.x_label)}</text>',
    ]
    for y, text in box.y_ticks:
        parts.append(f'<line class="g" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="q" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x, text in box.x_ticks:
        parts.append(f'<text class="q" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{text}</text>')
    x = float(left)
    for s, runs in box.curves:
        colour = f"c{s.colour % len(LIGHT)}"
        width_of = "1" if s.style == "faint" else "2"
        faint = ' opacity=".35"' if s.style == "faint" else ""
        path = " ".join("M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in run) for run in runs)
        parts.append(
            f'<path class="{colour}" d="{path}" stroke-width="{width_of}" stroke-linejoin="round"{faint}/>'
        )
        if s.style == "dots" or all(len(r) == 1 for r in runs):
            shown = [(a, b) for a, b in s.points if math.isfinite(b)]
            for (a, b), (step, value) in zip((p for r in runs for p in r), shown, strict=False):
                tip = f"{s.name} {number(value)} at {chart.x_label} {number(step)}"
                parts.append(
                    f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"><title>{escape(tip)}</title></circle>'
                )
        if s.name:
            parts.append(f'<rect class="{colour}" x="{x:.0f}" y="36" width="16" height="3"{faint}/>')
            parts.append(f'<text x="{x + 22:.0f}" y="42">{escape(s.name)}</text>')
            x += 22 + 7.6 * len(s.name) + 22
    if not box.curves:
        parts.append(
            f'<text class="q" x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle">nothing recorded</text>'
        )
    if caption := _caption(box):
        parts.append(
            f'<text class="c1" style="stroke:none" x="{right}" y="42" text-anchor="end">{caption}</text>'
        )
    return "".join(parts) + "</svg>"


def _told(s: Series) -> str:
    values = [(x, y) for x, y in s.points if math.isfinite(y)]
    if not values:
        return f"{s.name} has no values"
    return f"{s.name} from {number(values[0][1])} to {number(values[-1][1])} over {len(values)} points"


def png(chart: Chart, *, width: int = WIDTH, height: int = HEIGHT, scale: int = 2) -> bytes:
    """The chart as a PNG of `width * scale` by `height * scale` pixels, on white."""
    from PIL import Image, ImageDraw, ImageFont

    k = scale * 2  # drawn at twice the size and averaged down: Pillow's own lines are not anti-aliased
    box = _layout(chart, width, height)
    left, _, right, bottom = box.frame
    image = Image.new("RGB", (width * k, height * k), "white")
    draw = ImageDraw.Draw(image)
    fonts: dict[int, Any] = {size: ImageFont.load_default(size * k) for size in (13, 15)}

    def text(
        x: float, y: float, words: str, anchor: str = "ls", colour: str = "#5b6270", size: int = 13
    ) -> None:
        draw.text((x * k, y * k), words, fill=colour, anchor=anchor, font=fonts[size])

    text(left, 22, chart.title, colour="#1c2330", size=15)
    text(right, 22, _axis_name(chart, box), anchor="rs")
    text((left + right) / 2, height - 10, chart.x_label, anchor="ms")
    for y, words in box.y_ticks:
        draw.line([(left * k, y * k), (right * k, y * k)], fill="#e3e5ea", width=k)
        text(left - 8, y + 4, words, anchor="rs")
    for x, words in box.x_ticks:
        text(x, bottom + 20, words, anchor="ms")
    x = float(left)
    for s, runs in box.curves:
        colour = LIGHT[s.colour % len(LIGHT)]
        shown = _mix(colour) if s.style == "faint" else colour
        for run in runs:
            draw.line(
                [(a * k, b * k) for a, b in run],
                fill=shown,
                width=k if s.style == "faint" else 2 * k,
                joint="curve",
            )
        if s.style == "dots" or all(len(r) == 1 for r in runs):
            for a, b in (p for r in runs for p in r):
                draw.ellipse([(a - 3.5) * k, (b - 3.5) * k, (a + 3.5) * k, (b + 3.5) * k], fill=colour)
        if s.name:
            draw.rectangle([x * k, 36 * k, (x + 16) * k, 39 * k], fill=shown)
            text(x + 22, 42, s.name, colour="#1c2330")
            x += 22 + draw.textlength(s.name, font=fonts[13]) / k + 22
    if not box.curves:
        text(width / 2, height / 2, "nothing recorded", anchor="ms")
    if caption := _caption(box):
        text(right, 42, caption, anchor="rs", colour=LIGHT[1])
    out = io.BytesIO()
    image.resize((width * scale, height * scale), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()


def _mix(colour: str, part: float = 0.35) -> str:
    """The colour laid over white at this opacity."""
    rgb = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - c) * part):02x}" for c in rgb)


# ------------------------------------------------------------------------------------------- of a run
