"""Record the quickstart in a real terminal, as an SVG: `python docs/recording.py`; it takes a minute.

- The program runs in a pseudo-terminal in an empty folder, and what a terminal of 29 lines shows at the end is drawn.
- A line that was overwritten is shown as it last stood.
"""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "quickstart.svg"
COMMAND = [sys.executable, "-m", "bp_cli", "quickstart"]
COLUMNS, ROWS, LINE, CHAR, MARGIN = 100, 29, 19, 8.4, 24


def record() -> list[str]:
    """The lines that the terminal shows at the end."""
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        part = os.read(descriptor, 4096)
        shown.extend(part)
        return part

    os.environ.update(TERM="xterm", COLUMNS=str(COLUMNS), HF_HUB_OFFLINE="1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BACKPROPAGATE_LEASE_DIR"] = (
            f"{folder}/.leases"  # what else runs here is not in the picture
        )
        os.chdir(folder)
        status = pty.spawn(COMMAND, read)
        os.chdir(ROOT)
    if status:
        raise SystemExit(f"the quickstart ended with {status}")
    return on_screen(shown.decode())[-ROWS:]


def on_screen(text: str) -> list[str]:
    r"""What stands there at the end: of a line that was written over, the last.

    >>> on_screen("a\r\nb 1\r\x1b[Kb 2\r\n")
    ['a', 'b 2']
    """
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        last = [part for part in re.split(r"\r\x1b\[K|\r", line) if part] or [""]
        line = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", last[-1]).rstrip()
        lines += [line[at : at + COLUMNS] for at in range(0, max(len(line), 1), COLUMNS)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def draw(lines: list[str]) -> str:
    """A picture of the terminal, readable in a dark and a light page."""
    width, height = round(COLUMNS * CHAR + 2 * MARGIN), (len(lines) + 2) * LINE + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + (n + 2) * LINE}" xml:space="preserve">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A terminal in '
        'which backprop quickstart has run" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" fill="#e6e6e6">\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="#16181d"/>\n'
        f'<text x="{MARGIN}" y="{MARGIN + LINE // 2}" fill="#7ee0c8">$ backprop quickstart</text>\n{rows}\n</svg>\n'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(record()), encoding="utf-8")
