"""Text for people: columns and numbers, readable without colour, cheap to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """Columns two spaces apart; "" without rows."""
    if not rows:
        return ""
    lines = [head, *rows] if head else list(rows)
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def number(value: Any) -> str:
    """A figure with four significant digits; "" for none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(value: int | None) -> str:
    """Bytes as kB, MB or GB; "?" for none."""
    if value is None:
        return "?"
    if value < 1e6:
        return f"{value / 1e3:.1f} kB"
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"
