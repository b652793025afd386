"""Every file of examples/ is run, or read, as it stands there."""

from __future__ import annotations

import runpy
import sys
import threading
from pathlib import Path

import bp_data
import pytest
from tiny_adapters import folders

EXAMPLES = Path(__file__).parents[2] / "examples"
LONG = (
    "train.py",
    "train_preference.py",
    "train_rewards.py",
    "train_tasks.py",
    "evaluate.py",
    "export_gguf.py",
)


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_stands_in_the_table_and_is_run_by_a_test():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == {*LONG, "data_alone.py", "merge_alone.py", "client.py"}
    for path in EXAMPLES.iterdir():
        assert f"`{path.name}" in table or path.name == "README.md", path.name


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES.glob("*.jsonl")])
def test_the_rows_are_good(name):
    told = bp_data.validate(EXAMPLES / name)
    assert told.rejected == 0
    assert told.accepted >= 5


def test_data_alone(here, monkeypatch, capsys):
    run(monkeypatch, "data_alone.py")
    assert "26 to train on, 6 held out" in capsys.readouterr().out


def test_merge_alone(here, monkeypatch, capsys):
    first, second = folders(here)
    run(monkeypatch, "merge_alone.py", first, second, here / "merged")
    assert (here / "merged" / "adapter_model.safetensors").is_file()


def test_the_client_asks_what_is_served(here, monkeypatch, capsys):
    from bp_core.assessment.opening import open_source
    from bp_core.assessment.sources import find_source
    from bp_core.generation.serve import Server

    server = Server(open_source(find_source("tiny", here)), name="tiny", log=lambda _: None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        run(monkeypatch, "client.py", server.address, "Who are you?")
    finally:
        server.stop()
        server.close()
        thread.join(5)
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_training_to_a_file(here, monkeypatch, capsys):
    run(monkeypatch, "train.py")
    run(monkeypatch, "evaluate.py", "latest")
    assert "normalized_exact_match" in capsys.readouterr().out
    (adapter,) = (here / "output").glob("*/adapter")
    run(monkeypatch, "export_gguf.py", adapter)
    assert list(here.rglob("*.gguf"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["train_preference.py", "train_rewards.py", "train_tasks.py"])
def test_each_training_delivers_an_adapter(here, monkeypatch, name):
    run(monkeypatch, name)
    assert list((here / "output").glob("*/adapter/adapter_model.safetensors"))
