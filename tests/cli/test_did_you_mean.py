"""A misspelt verb, flag, key, choice, model, run or reward is answered with the one that was meant."""

from __future__ import annotations

import pytest
from bp_cli.main import main
from bp_core.runs.store import RunStore

MEANT = {
    "trian": "train",
    "data reprot x": "report",
    "train --btch-size 2": "--batch-size",
    "config set training.stpes=3": "training.steps",
    "train --lora-preset fsat -d rows.jsonl": "did you mean fast?",
    "data split rows.jsonl --statify nothing": "--stratify",
    "generate phi4-mini-3.8b Hi": "did you mean phi-4-mini-3.8b?",
    "show-run 20261121-0735": "did you mean 20261121-073455-a1b2c3?",
    "show-run first-rnu": "did you mean first-run?",
    "reward show numeric_mach": "did you mean numeric_match?",
    "eval tiny --metric token_f": "did you mean 'token_f1'?",
}


@pytest.mark.parametrize(("line", "meant"), MEANT.items())
def test_what_was_meant_is_named(tmp_path, monkeypatch, capsys, line, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for name in ("20261121-073455-a1b2c3", "20261121-073455-a1b2c4", "first-run"):
        RunStore("output").create(run_id=name).finish("completed", {})
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert meant in err.replace("c4", "c3")


def test_what_is_like_nothing_gets_no_guess(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    RunStore("output").create(run_id="first-run").finish("completed", {})
    assert main(["show-run", "zzz"]) == 1
    assert "did you mean" not in capsys.readouterr().err
