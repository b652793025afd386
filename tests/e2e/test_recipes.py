"""Every block of the recipes is run, on the embedded model and a step or two."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path

import pytest
from bp_cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "recipes.md"
MODEL = "Qwen/Qwen2.5-7B-Instruct"


def commands():
    text = PAGE.read_text(encoding="utf-8")
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        yield from block.strip().splitlines()


def small(line: str) -> list[str]:
    """The command with the embedded model, two steps and no evaluation between."""
    line = line.replace(MODEL, "tiny")
    line = re.sub(r"--(steps|epochs) \d+", "--steps 2", line)
    words = shlex.split(line.partition(" > ")[0])[1:]
    return [*words, "--preview", "0", "--no-preflight"] if words[0] == "train" else words


def rows(folder):
    facts = [(f"What is the code of room {i}?", f"Room {i} has code {i * 7 % 100}.") for i in range(40)]
    write = {
        "my_data.jsonl": [{"prompt": q, "completion": a} for q, a in facts],
        "pairs.jsonl": [{"prompt": q, "chosen": a, "rejected": "I do not know."} for q, a in facts],
    }
    for name, lines in write.items():
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in lines))
    (folder / "prompts.txt").write_text("".join(f"{q}\n" for q, _ in facts[:3]))
    (folder / "odd.csv").write_text("question,answer\n" + "".join(f'"{q}","{a}"\n' for q, a in facts))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_recipe_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path)
    ran = []
    for line in commands():
        assert line.startswith("backprop "), line
        code = main(small(line))
        out = capsys.readouterr()
        # the rows are alike and the steps few, so that a gate may trip; its exit code says so
        allowed = (0, 65) if "--fail-on" in line or "--gate" in line else (0,)
        assert code in allowed, (line, out.err[-2000:])
        if (target := line.partition(" > ")[2]) != "":
            with contextlib.suppress(FileNotFoundError):
                Path(target).unlink()
            assert json.loads(out.out)["schema_version"] == 1
        ran.append(line)
    assert len(ran) > 20
