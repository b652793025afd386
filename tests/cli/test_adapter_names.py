"""Wherever an adapter is asked for, a run's name does: id, beginning, folder, `latest`, nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import click
import pytest
from bp_cli.adapter_names import ARGUMENTS
from bp_cli.main import main
from bp_cli.root import cli
from bp_core.runs.store import RunStore

ADAPTER = Path(__file__).parents[1] / "corpus" / "adapter-0.1.0"


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.fixture
def output(tmp_path, monkeypatch):
    """Two completed runs (the newer one failed to deliver nothing), and a failed one without an adapter."""
    monkeypatch.chdir(tmp_path)
    store = RunStore(tmp_path / "output")
    for run_id in ("older-run", "newer-run"):
        with store.create("train", run_id=run_id) as made:
            shutil.copytree(ADAPTER, made.path / "adapter")
            made.finish("completed", {})
    with pytest.raises(RuntimeError), store.create("train", run_id="broken-run"):
        raise RuntimeError("the card fell off the bus")
    return tmp_path / "output"


NAMES = {
    "folder": "output/newer-run/adapter",
    "run folder": "output/newer-run",
    "id": "newer-run",
    "prefix": "new",
    "latest": "latest",
    "nothing": None,
}


def command(path, name, tmp_path):
    """A command line that shows which adapter it took, cheaply."""
    named = [] if name is None else [name]
    return {
        "export": ["export", *named, "-f", "lora", "--dry-run", "--json"],
        "push": ["push", *named, "--repo", "a/b", "--dry-run", "--json"],
        "ollama register": ["ollama", "register", *named, "--host", "127.0.0.1:9", "--json"],
        "merge merge": ["merge", "merge", *named, *named, "--output", "m", "--dry-run", "--json"],
        "merge bake": ["merge", "bake", tmp_path / "no-base", *named, "--output", "m", "--json"],
        "merge slao": ["merge", "slao", *named, "--state", "s", "--dry-run", "--json"],
        "merge inspect": ["merge", "inspect", *named, "--json"],
        "merge compare": ["merge", "compare", *named, *named, "--json"],
    }[path]


@pytest.mark.parametrize("how", NAMES)
@pytest.mark.parametrize("path", ARGUMENTS)
def test_every_way_to_name_an_adapter_means_the_same(capsys, monkeypatch, output, tmp_path, path, how):
    if NAMES[how] is None and not all(ARGUMENTS[path].values()):
        pytest.skip("adapters that are combined are named")
    seen = []
    from bp_cli import adapter_names

    told = adapter_names.AdapterName.convert
    monkeypatch.setattr(adapter_names.AdapterName, "convert", lambda *a: seen.append(told(*a)) or seen[-1])
    code, out, _ = run(capsys, *command(path, NAMES[how], tmp_path))
    assert {p.resolve() for p in seen} == {(output / "newer-run" / "adapter").resolve()}
    answer = json.loads(out)
    if path.startswith(("export", "push", "merge inspect", "merge compare", "merge slao")):
        assert code == 0, answer
    else:  # what else it needs is not here; the adapter was found
        assert answer.get("error", {}).get("code") not in {"INPUT_ADAPTER_INVALID", "INPUT_RUN_NOT_FOUND"}


@pytest.mark.parametrize(
    ("name", "export", "generate"),
    [
        ("nobody", ("INPUT_RUN_NOT_FOUND", "begins with 'nobody'"), None),
        (
            "broken-run",
            ("STATE_RUN_NO_ADAPTER", "is failed and has no complete checkpoint"),
            ("STATE_RUN_NO_ADAPTER", "has no complete checkpoint"),
        ),
        (
            "output/broken-run",
            ("INPUT_ADAPTER_INVALID", "adapter_config.json"),
            ("STATE_RUN_NO_ADAPTER", "has no complete checkpoint"),
        ),
        (
            "outptu/newer-run/adapter",
            ("INPUT_ADAPTER_INVALID", "no adapter directory"),
            ("INPUT_MODEL_NOT_FOUND", "outptu/newer-run/adapter"),
        ),
    ],
)
def test_what_is_no_adapter_is_told_by_its_cause(capsys, output, name, export, generate):
    for arguments, (code, told) in (
        (["export", name, "-f", "lora"], export),
        (["generate", name, "why?"], generate or export),
    ):
        _, out, _ = run(capsys, *arguments, "--json")
        error = json.loads(out)["error"]
        assert error["code"] == code
        assert told in error["message"]


def test_a_beginning_of_two_runs_is_refused(capsys, output):
    store = RunStore(output)
    store.create("train", run_id="newer-still").finish("completed", {})
    _, out, _ = run(capsys, "merge", "inspect", "newer", "--json")
    assert json.loads(out)["error"]["code"] == "INPUT_RUN_AMBIGUOUS"


def test_latest_passes_over_a_completed_run_whose_adapter_is_gone(capsys, output):
    store = RunStore(output)
    store.create("train", run_id="newest-run").finish("completed", {})
    _, out, _ = run(capsys, "merge", "inspect", "--json")
    assert "newer-run" in json.loads(out)["path"]


def test_latest_of_no_run_says_how_to_see_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["generate", "why?"], ["push", "--repo", "a/b"], ["export", "latest"]):
        code, out, _ = run(capsys, *arguments, "--json")
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (1, "INPUT_RUN_NOT_FOUND")
        assert error["hint"] == "backprop runs"


def test_the_output_folder_is_the_one_of_the_settings(capsys, tmp_path, output, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("BACKPROPAGATE_TRACKING__OUTPUT", str(output))
    _, out, _ = run(capsys, "merge", "inspect", "--json")
    assert "newer-run" in json.loads(out)["path"]


def test_a_prompt_of_many_words_without_quotes_is_refused(capsys, output):
    code, _, err = run(capsys, "generate", "latest", "why", "me?")
    assert code == 1
    assert "quotes" in err


@pytest.mark.parametrize("path", [*ARGUMENTS, "generate"])
def test_help_says_that_a_run_id_is_taken(capsys, path):
    code, out, _ = run(capsys, *path.split(), "--help")
    assert code == 0
    assert re.search(r"a run id\s+or\s+its\s+beginning,\s+(or\s+)?`latest`", out), out
    assert ("none given is" in " ".join(out.split())) == all(ARGUMENTS.get(path, {"": True}).values())


def test_the_packages_alone_take_folders_and_stay_as_they_are(capsys, output):
    from bp_export.cli.main import cli as alone
    from bp_merge.common import run_command

    for command in ("export", "push"):
        context = click.Context(cli)
        assert cli.get_command(context, command) is not alone.commands[command]
        assert "latest" not in alone.commands[command].get_help(click.Context(alone.commands[command]))
    code = run_command(alone, ["export", "latest", "-f", "lora", "--json"])
    assert code == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "INPUT_ADAPTER_INVALID"
