"""Every command that the handbook shows exists, with the flags that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hints import problem

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"commands.md", "settings.md", "errors.md", "files.md", "json.md", "papers.md"}


def shown(text: str) -> list[str]:
    """Lines of shell blocks and inline code that begin with one of our programs."""
    blocks = re.findall(r"^```(?:bash|console|sh)\n(.*?)^```", text, re.M | re.S)
    lines = [
        line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ]
    inline = re.findall(
        r"`((?:backprop|bp-merge|bp-data|bp-export) [^`]+)`",
        re.sub(r"^```.*?^```", "", text, flags=re.M | re.S),
    )
    return [
        line for line in (*lines, *inline) if re.match(r"(backprop|bp-merge|bp-data|bp-export) [a-z]", line)
    ]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in GENERATED], ids=lambda p: str(p.relative_to(ROOT))
)
def test_its_commands_exist(page):
    wrong = {}
    for line in shown(page.read_text(encoding="utf-8")):
        command = re.sub(r"\s(>|\|).*", "", line)
        if "…" in command:
            continue  # it says «and so on»
        if told := problem(command):
            wrong[line] = told
    assert not wrong


def test_the_finder_finds():
    text = "```bash\nbackprop runs --nope  # x\n```\nand `backprop nothing here`, `backprop`"
    assert shown(text) == ["backprop runs --nope", "backprop nothing here"]
