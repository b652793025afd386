"""Names that no system can open, each where a file, a run or a model is asked for: told in one line, never as unexpected."""

from __future__ import annotations

import json

import pytest
from bp_cli.main import main

LONG, NOBODY, BROKEN = "x" * 300, "~nobody-here/y", "\udcff"
LINES = [
    *(("reward", "test", "numeric_match", "--data", name) for name in (LONG, NOBODY, BROKEN)),
    *(("show-run", name) for name in (LONG, NOBODY, BROKEN)),
    *(("generate", name, "Why?") for name in (LONG, NOBODY, BROKEN)),
    *(("export", name) for name in (LONG, NOBODY, BROKEN)),
    *(("push", name, "--repo", "a/b", "--dry-run") for name in (LONG, NOBODY)),
    *(("config", "show", "--file", name) for name in (LONG,)),
    *(("data", "report", name) for name in (LONG, NOBODY, BROKEN)),
    *(("replay", name) for name in (LONG, NOBODY, BROKEN)),
    *(("merge", "inspect", name) for name in (LONG, NOBODY, BROKEN)),
    *(("runs", "import", name) for name in (LONG, NOBODY, BROKEN)),
    ("runs", "--output", LONG),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: ascii(" ".join(line))[:40])
def test_a_name_that_cannot_be_is_told(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    code = main([*line, "--json"])
    told = json.loads(capsys.readouterr().out)
    if code:
        assert told["error"]["code"] != "RUNTIME_UNEXPECTED", told
        assert told["error"]["hint"]
    assert code in (0, 1)
    assert [p.name for p in tmp_path.iterdir()] == []
