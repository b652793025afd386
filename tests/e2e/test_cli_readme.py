"""What the README shows, run as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bp_cli.main import main
from bp_core.quickstart import facts

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def rows(path):
    path.write_text(
        "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in facts.trained()),
        encoding="utf-8",
    )


def test_three_lines_of_python(tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKPROPAGATE_TRAINING__STEPS", "4")
    rows(tmp_path / "data.jsonl")
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["t"].result.steps == 4
    (gguf,) = tmp_path.rglob("*.gguf")
    assert gguf.stat().st_size > 500_000


def test_report_train_export(tmp_path, monkeypatch, capsys):
    """The three commands, with the embedded model and without Ollama."""
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "my_data.jsonl")
    assert "backprop data report my_data.jsonl" in README
    assert main(["data", "report", "my_data.jsonl"]) == 0
    capsys.readouterr()
    assert "backprop train --data my_data.jsonl --model" in README
    assert main(["train", "--data", "my_data.jsonl", "--model", "tiny", "--steps", "2", "--json"]) == 0
    adapter = json.loads(capsys.readouterr().out)["adapter_path"]
    assert "--format gguf" in README
    assert main(["export", adapter, "--format", "gguf", "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["path"]).is_file()
