"""The root's flags stand before or after the verb, and the version is told before Click is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from bp_cli import __version__
from bp_cli.main import main
from bp_cli.root import COMMANDS, cli


def test_the_version_is_the_packages():
    assert __version__ == version("bp-cli")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_loads_no_click(flag):
    code = f"import sys; from bp_cli.main import main; main([{flag!r}]); print([m for m in ('click', 'bp_merge', 'importlib.metadata') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"backprop {__version__}", "[]"]


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "bp_cli", "--version"], capture_output=True, text=True)
    assert done.stdout == f"backprop {__version__}\n"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_verb_takes_them(name):
    import click

    command = cli.get_command(click.Context(cli), name)
    names = {opt for p in command.params for opt in p.opts}
    assert {"--verbose", "--version", "--log-level", "--log-format", "--log-file"} <= names


@pytest.mark.parametrize(
    "argv",
    [
        ["--log-level", "debug", "--log-file", "LOG", "info", "--json"],
        ["info", "--log-level", "debug", "--json", "--log-file", "LOG"],
        ["info", "--json", "--log-file", "LOG", "--log-level", "Debug"],
    ],
)
def test_before_and_after_are_one(argv, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    assert main([str(log) if word == "LOG" else word for word in argv]) == 0
    told = json.loads(capsys.readouterr().out)["logging"]
    assert told["level"] == "DEBUG"
    assert Path(told["file"]) == log


def test_below_a_group_too(tmp_path, capsys):
    missing = str(tmp_path / "no.jsonl")
    assert (
        main(["data", "report", missing, "--verbose"]) == main(["data", "--verbose", "report", missing]) == 1
    )
    assert capsys.readouterr().err.count("Traceback") == 2
    assert main(["data", "report", missing]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_level_names_the_levels(capsys):
    assert main(["runs", "--log-level", "loud"]) == 1
    assert "DEBUG" in capsys.readouterr().err.upper()
