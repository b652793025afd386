"""What the data guides and the README of bp-data show, run as it stands there."""

import contextlib
import io
import json
import random
import re
import shlex
from pathlib import Path

import pytest
from bp_data.cli import cli
from bp_data.common import run_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs/guides").glob("data*.md")), ROOT / "packages/bp-data/README.md"]
TEXTS = {
    page.name if page.parent.name == "guides" else "README.md": page.read_text("utf-8") for page in PAGES
}


def blocks(language):
    found = [
        (name, block)
        for name, text in TEXTS.items()
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.S)
    ]
    return [pytest.param(block, id=f"{name}-{i}") for i, (name, block) in enumerate(found)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = random.Random(3)
    words = [a + b for a in ("ba", "ke", "li", "mo", "tu", "ra") for b in ("n", "st", "rk", "ll", "")]

    def row():
        return {
            "question": " ".join(rng.choices(words, k=12)) + "?",
            "answer": " ".join(rng.choices(words, k=40)) + ".",
        }

    for name, count in (("train.jsonl", 60), ("test.jsonl", 5)):
        Path(name).write_text("".join(json.dumps(row()) + "\n" for _ in range(count)))
    Path("raw.csv").write_text(
        "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in (row(), row()))
    )
    Path("tickets.jsonl").write_text(
        json.dumps({"subject": "It broke", "reply": {"body": "Send it in"}}) + "\n"
    )
    Path("my_mappers.py").write_text(
        next(block for param in blocks("python") if "register_dataset_mappers" in (block := param.values[0]))
    )
    return tmp_path


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(folder, block):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(block, "guide", "exec"), {})
    for line in re.findall(r"^print\(.*?# (\[.*)$", block, re.M):
        assert line in out.getvalue()


@pytest.mark.parametrize("block", blocks("bash"))
def test_commands_run(folder, block, capsys):
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line.startswith("bp-data ")]
    for _, *arguments in lines:
        code = run_command(cli, arguments, prog_name="bp-data")
        assert code in ((0, 65) if "--strict" in arguments else (0,)), (arguments, capsys.readouterr().err)


def test_every_option_of_clean_and_every_key_of_the_report_is_told():
    import dataclasses

    from bp_data.clean import CleanSettings
    from bp_data.report.result import Report
    from bp_data.report.settings import ReportSettings

    text = TEXTS["data-report.md"]
    for field in dataclasses.fields(CleanSettings):
        if field.name not in ("dup_threshold", "shingle"):
            assert f"--{field.name.replace('_', '-')}" in text, field.name
    for field in dataclasses.fields(Report):
        assert f"`{field.name}`" in text or field.name == "dataset", field.name
    for name in ("fail_on_dups", "fail_on_contamination", "max_outlier_rate", "strict"):
        assert name in {f.name for f in dataclasses.fields(ReportSettings)}
        assert f"--{name.replace('_', '-')}" in text
