"""`--dry-run` of every command that has one: the folders are as they were, byte for byte, and it is told what would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from bp_cli.main import main
from bp_cli.root import cli
from bp_core.rewards.presets import Prompt
from bp_core.rewards.prompt_templates import SavedPrompts
from bp_core.runs.store import RunStore
from bp_core.settings.resolve import resolve
from bp_merge.common import exit_code_of
from fakes.fake_hub import fake_hub
from fakes.fake_ollama import fake_ollama

CORPUS = Path(__file__).parents[1] / "corpus" / "adapter-0.1.0"
TRAIN = "-m tiny --backend cpu --steps 2 --preview 0"
# command line → a word of what it says
TRAINING = {
    f"train -d d.jsonl {TRAIN} -o elsewhere": "steps",
    f"multi-run -d d.jsonl --runs 2 {TRAIN}": "2 runs, merged by",
    "replay one --override steps=1": "steps",
    "replay many": "2 runs, merged by",
}
LIGHT = {
    "quickstart -o quick": "would",
    "batch-test p.txt -m adapter --to answers.csv": "2 prompts, and write the answers to answers.csv",
    "export adapter -f merged -o merged": "would write merged",
    "push adapter --repo a/b": "would push to a/b",
    "pull a/there -o fetched": "would fetch a/there into fetched (2 files",
    "ollama register adapter --name new": "register with Ollama",
    "ollama rm old": "would remove old",
    "data split d.jsonl": "",
    "data clean d.jsonl -o c.jsonl": "",
    "data decontaminate d.jsonl --against e.jsonl -o x.jsonl": "",
    "data map d.jsonl -o m.jsonl": "",
    "data convert d.jsonl -o v.jsonl": "",
    "data synthesize d.jsonl --url http://127.0.0.1:9/v1 --model m": "would ask m at",
    "merge merge adapter adapter -o mixed": "would write mixed",
    "merge bake base adapter -o baked": "would write baked",
    "merge models base base base --method linear -o mixed": "would write mixed",
    "merge slao adapter --state state": "",
    "reward suggest d.jsonl --write mine.toml": "would be written to mine.toml",
    "prompt-template save brief --system Short.": "would be saved",
    "prompt-template remove mine": "would be removed",
    "runs import run_history.json": "1 would be taken into output",
    "runs rename one first": "would be named first",
    "runs delete two": "would delete output/two",
    "config set steps=3": "would be written to backprop.toml",
    "config unset lr": "would be unset in backprop.toml: training.learning_rate",
    "config init --file new.toml": "would be written: new.toml",
    "config import craft.json": "would be written to backprop.toml",
    "support-bundle one": "would write support-one.zip",
}
LINES = {**TRAINING, **LIGHT}
# what is quick is asked twice, for people and for programs
ALSO_JSON = ("quickstart", "batch-test", "pull", "ollama", "reward", "prompt", "runs", "config", "support")
# write nothing but what they are asked to print
READ = {
    *("plan", "estimate-vram", "generate", "ollama list", "ollama ps", "ollama shelf", "ollama show"),
    *("data report", "data validate", "validate", "merge methods", "merge inspect", "merge compare", "reward list"),
    *("prompt-template list", "prompt-template show", "reward show", "reward test", "reward coverage", "runs", "show-run", "diff-runs", "export-runs", "config show"),
    *("config path", "doctor", "info", "completion"),
}  # fmt: skip
# go on with, or serve, what is there: a record of that is all they add
GO_ON = {"resume", "eval", "chat", "serve", "stop", "ui"}


def commands(command: click.Command, path: str = ""):
    """Every command that runs, with whether it has --dry-run."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), f"{path} {name}".strip())
    if path and (not isinstance(command, click.Group) or command.invoke_without_command):
        yield path, any("--dry-run" in p.opts for p in command.params)


def test_every_command_that_writes_has_a_dry_run_and_a_row_here():
    found = dict(commands(cli))
    dry = {path for path, has in found.items() if has}
    assert dry == {path for path in found if any(line.startswith(f"{path} ") for line in LINES)} - READ
    assert set(found) - dry == READ | GO_ON


def tree(*folders: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder."""
    return {
        p.as_posix(): p.read_bytes() if p.is_file() else None for f in folders for p in sorted(f.rglob("*"))
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data, an adapter, runs and settings; a home of its own beside it."""
    place, home = tmp_path / "place", tmp_path / "home"
    place.mkdir()
    home.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hf"))
    for name, first in (("d.jsonl", 0), ("e.jsonl", 100)):
        rows = [
            {"prompt": f"Which code has room {i + first}?", "completion": f"It is {i * 37 % 1000}."}
            for i in range(24)
        ]
        Path(name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    Path("p.txt").write_text("Why?\nWho?\n")
    Path("craft.json").write_text('{"model": {"lora_rank": 4}}')
    Path("run_history.json").write_text(
        json.dumps([{"run_id": "old", "started_at": "2026-01-01T00:00:00", "status": "completed"}])
    )
    SavedPrompts(Path("output")).save("mine", Prompt("Short.", "{instruction}", "{solution}"))
    Path("backprop.toml").write_text("[training]\nlearning_rate = 0.001  # mine\n")
    shutil.copytree(CORPUS, "adapter")
    from bp_core import tiny

    shutil.copytree(tiny.path(), "base")
    given = {"data": ("d.jsonl",), "model": "tiny", "backend": "cpu", "steps": 2, "preview": 0}
    for run_id, kind, more in (
        ("one", "train", {}),
        ("two", "train", {}),
        ("many", "multi-run", {"runs": 2}),
    ):
        settings = resolve({**given, **more})
        made = RunStore("output").create(
            kind,
            run_id=run_id,
            config=settings.to_dict(),
            sources=settings.sources,
            seed=settings.training.seed,
        )
        made.finish("completed", {"steps": 2})
    with fake_hub() as hub, fake_ollama() as ollama:
        hub.add("a/there", {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 64})
        ollama.add("old:latest")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # read when it was loaded
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        yield tmp_path, hub, ollama


@pytest.mark.parametrize(
    "lines", [LIGHT, pytest.param(TRAINING, marks=pytest.mark.slow)], ids=["", "training"]
)
def test_a_dry_run_writes_nothing_and_says_what_it_would(here, capsys, lines):
    folder, hub, ollama = here
    before, models = tree(folder), dict(ollama.models)
    for line, told in lines.items():
        as_json = ["--json"] if line.startswith(ALSO_JSON) else []  # held to its schema by tests/conftest.py
        for more in ([], as_json) if as_json else ([],):
            code = main([*line.split(), "--dry-run", *more])
            out = capsys.readouterr()
            assert code == 0, f"{line}: {out.err}"
            assert more or told in out.out, f"{line}: {out.out}"
        after = tree(folder)
        assert after == before, f"{line}: {[k for k in {*before, *after} if before.get(k) != after.get(k)]}"
    assert tree(folder) == before
    assert ollama.models == models
    assert hub.uploads == []


def test_a_dry_run_refuses_what_the_run_would_refuse(here, capsys):
    folder, _, _ = here
    before = tree(folder)
    for line, code in {
        "replay one --run-id two": "INPUT_RUN_EXISTS",
        "runs delete nobody": "INPUT_RUN_NOT_FOUND",
        "config init": "INPUT_OUTPUT_EXISTS",
        "config set stepps=3": "CONFIG_INVALID_SETTING",
        "batch-test p.txt -m adapter --to no/answers.csv": "INPUT_OUTPUT_FOLDER",
        "ollama rm nobody": "OLLAMA_MODEL_NOT_FOUND",
        "pull a/missing": "HUB_NOT_FOUND",
        "reward suggest d.jsonl --write craft.json": "INPUT_OUTPUT_EXISTS",
        "multi-run -d d.jsonl -m tiny --runs 3 --queue": "INPUT_USAGE",
    }.items():
        ended = main([*line.split(), "--dry-run", "--json"])
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code, line
        assert ended == exit_code_of(code), line
    assert tree(folder) == before
