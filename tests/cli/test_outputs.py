"""The published schemas: one for every command that prints JSON, true of what is printed.

What each command prints in any test is held to its schema by tests/conftest.py; here stand the commands that need no model.
"""

from __future__ import annotations

import json

import click
import pytest
from bp_cli.main import main
from bp_cli.outputs import OUTPUTS, schemas
from bp_cli.root import ALIASES, cli
from bp_core.runs.store import RunStore
from jsonschema import Draft202012Validator, ValidationError
from parity import facts
from printed import check

SCHEMAS = schemas()


def printing(command: click.Command, path: str = ""):
    """Every command below that has --json."""
    if any("--json" in p.opts for p in command.params):
        yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from printing(command.get_command(context, name), f"{path} {name}".strip())


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Room {i}?", "completion": f"Code {i * 7 % 100}."} for i in range(24)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "e.jsonl").write_text('{"prompt": "Who?", "completion": "Nobody."}\n')
    (tmp_path / "craft.json").write_text('{"model": {"lora_rank": 4}}')
    (tmp_path / "run_history.json").write_text("[]")
    for name in ("one", "two"):
        RunStore("output").create(run_id=name).finish("completed", {"steps": 1})
    return tmp_path


def test_every_command_that_prints_json_has_a_schema():
    assert set(printing(cli)) == set(OUTPUTS)
    assert set(ALIASES) & set(OUTPUTS) == set()
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "line",
    [
        "runs", "show-run one", "diff-runs one two", "runs rename one first", "runs delete two --yes", "info",
        "info --error-codes", "info --env-vars", "info --subcommand-tiers", "info tiny", "config show --origin",
        "config set steps=3", "config unset steps", "config path", "config init", "config import craft.json",
        "train --show-config", "validate d.jsonl", "data validate d.jsonl", "data report d.jsonl", "data split d.jsonl",
        "data split d.jsonl --dry-run", "data clean d.jsonl -o c.jsonl", "data clean d.jsonl --dry-run",
        "data map d.jsonl -o m.jsonl", "data map d.jsonl", "data convert d.jsonl -o v.jsonl",
        "data decontaminate d.jsonl --against e.jsonl -o x.jsonl", "merge methods", "reward list", "reward show math-science",
        "reward show numeric_match", "reward show math-science --toml", "reward suggest d.jsonl", "reward test numeric_match",
        "estimate-vram --vram-gb 16", "support-bundle one",
    ],
)  # fmt: skip
def test_what_is_printed_is_as_published(here, capsys, line):
    code = main([*line.split(), "--json"])  # tests/conftest.py holds it to the schema of the command
    told = json.loads(capsys.readouterr().out)
    assert code == 0, told
    assert told["schema_version"] == 1


@pytest.mark.parametrize(
    "line", ["train -d none.jsonl", "show-run nobody", "frobnicate", "data report none.jsonl", "train --lr x"]
)
def test_a_failure_is_as_published(here, capsys, line):
    code = main([*line.split(), "--json"])
    Draft202012Validator(SCHEMAS["error"]).validate(json.loads(capsys.readouterr().out))
    assert code in (1, 65)


@pytest.mark.parametrize("fact", facts("json"), ids=str)
def test_the_keys_that_other_documents_name_are_published(fact):
    schema = SCHEMAS[fact.where]
    shapes = schema.get("anyOf", [schema])
    assert any(fact.name in shape["properties"] for shape in shapes)


def test_the_check_finds_what_is_wrong():
    with pytest.raises(ValidationError):
        Draft202012Validator(SCHEMAS["config path"]).validate(
            {"schema_version": 1, "path": 3, "exists": True}
        )
    check({"anything": 1})  # no command runs
