"""backprop config: the settings file is read, shown and changed without loss."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from bp_cli.main import main
from bp_core.settings.config_file import set_values, template, unset_values
from bp_core.settings.knobs import GROUPS
from bp_core.settings.resolve import resolve
from bp_merge.common import BpError, knobs
from hypothesis import given, settings
from hypothesis import strategies as st

WRITTEN = """# mine
[training]  # how long
steps = 7   # enough
lr = 1e-3

[lora]
r = 8
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv):
    code = main(["config", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_set_keeps_comments_and_uses_one_spelling(capsys):
    Path("backprop.toml").write_text(WRITTEN)
    code, out, _ = run(capsys, "set", "learning_rate=2e-5", "target_modules=q_proj,v_proj", "--json")
    assert code == 0
    assert json.loads(out)["set"] == {
        "training.learning_rate": 2e-5,
        "lora.target_modules": ["q_proj", "v_proj"],
    }
    text = Path("backprop.toml").read_text()
    assert "# mine" in text
    assert "steps = 7   # enough" in text
    assert tomllib.loads(text)["training"] == {"steps": 7, "learning_rate": 2e-5}
    found = resolve()
    assert (found.training.learning_rate, found.lora.target_modules, found.lora.rank) == (
        2e-5,
        ("q_proj", "v_proj"),
        8,
    )


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("stepps=3", "did you mean 'steps'"),
        ("training.rank=3", "lora.rank"),
        ("training.steps=zero", "must be a whole number"),
        ("steps=0", "greater than 0"),
        ("steps", "no KEY=VALUE"),
        ("=4", "no setting"),
        ("training.=4", "no setting"),
    ],
)
def test_what_is_wrong_changes_nothing(capsys, pair, told):
    Path("backprop.toml").write_text(WRITTEN)
    code, _, err = run(capsys, "set", "epochs=2", pair)
    assert code == 1
    assert told in err
    assert Path("backprop.toml").read_text() == WRITTEN


@pytest.mark.parametrize(
    "text", ["steps = ", "[training]\nsteps = 0\n", "[trainig]\nsteps = 1\n", "training = 3\n", "\0"]
)
def test_a_broken_file_is_refused_not_mended(capsys, text):
    Path("backprop.toml").write_text(text)
    code, _, err = run(capsys, "set", "epochs=2")
    assert code == 1
    assert err.startswith("[CONFIG_")
    assert Path("backprop.toml").read_text() == text


def test_unset(capsys):
    Path("backprop.toml").write_text(WRITTEN)
    code, out, _ = run(capsys, "unset", "learning_rate", "rank", "batch_size", "--json")
    assert (code, json.loads(out)["unset"]) == (0, ["training.learning_rate", "lora.rank"])
    assert tomllib.loads(Path("backprop.toml").read_text()) == {"training": {"steps": 7}}
    assert run(capsys, "unset", "--all")[0] == 0
    assert tomllib.loads(Path("backprop.toml").read_text()) == {}
    assert run(capsys, "unset")[0] == 1


def test_show_says_where_each_comes_from(capsys, monkeypatch):
    Path("backprop.toml").write_text(WRITTEN)
    monkeypatch.setenv("BACKPROPAGATE_TRAINING__EPOCHS", "2")
    code, out, _ = run(capsys, "show", "--changed", "--json")
    assert code == 0
    assert json.loads(out)["settings"] == {
        "lora.rank": {"value": "8", "source": "backprop.toml"},
        "training.steps": {"value": "7", "source": "backprop.toml"},
        "training.learning_rate": {"value": "0.001", "source": "backprop.toml"},
        "training.epochs": {"value": "2.0", "source": "environment"},
    }
    assert run(capsys, "show", "lr", "--quiet")[1] == "0.001\n"
    assert "environment" in run(capsys, "show", "epochs", "--origin")[1]


def test_init_writes_every_knob_as_a_comment(capsys):
    assert run(capsys, "init")[0] == 0
    assert resolve().sources == {f"{g}.{k.name}": "default" for g, c in GROUPS.items() for k in knobs(c)}
    code, _, err = run(capsys, "init")
    assert (code, err.split()[0]) == (1, "[INPUT_OUTPUT_EXISTS]")
    # taking the marks off leaves a file that says the defaults
    lines = [
        line.removeprefix("# ")
        for line in template().splitlines()
        if line.startswith("[") or (line.startswith("# ") and " = " in line and not line.endswith("="))
    ]
    shown = tomllib.loads(
        "\n".join(line for line in lines if line.startswith("[") or line.split(" = ")[0].isidentifier())
    )
    for group, values in shown.items():
        for name, value in values.items():
            known = getattr(GROUPS[group], name, None)
            assert known == (tuple(value) if isinstance(value, list) else type(known)(value)), (group, name)


def test_a_folder_without_permission_is_told(here, monkeypatch, capsys):
    import bp_core.settings.config_file as module

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(BpError) as caught:
        set_values(here / "backprop.toml", {"steps": 3})
    assert caught.value.code == "CONFIG_FILE_UNWRITABLE"
    assert run(capsys, "set", "steps=3")[0] == 1
    assert not Path("backprop.toml").exists()


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(["steps", "lr", "rank", "output", "log_prompts", "batch_size"]),
        st.none() | st.integers(1, 99),
        max_size=5,
    )
)
def test_any_order_of_set_and_unset_leaves_what_was_set_last(tmp_path_factory, wanted):
    file = tmp_path_factory.mktemp("c") / "backprop.toml"
    file.write_text(WRITTEN)
    for key, value in wanted.items():
        if value is None:
            unset_values(file, [key])
        else:
            set_values(file, {key: str(value)})
    found = resolve(config_file=file)
    for key, value in wanted.items():
        if value is not None and key in ("steps", "rank"):
            assert {"steps": found.training.steps, "rank": found.lora.rank}[key] == value
    assert "# mine" in file.read_text()


def test_the_function_refuses_as_the_command_does(here):
    with pytest.raises(BpError) as caught:
        set_values(here / "backprop.toml", {"no_such": 1})
    assert caught.value.code == "CONFIG_INVALID_SETTING"


@pytest.mark.parametrize(
    ("there", "here"),
    [("--show", "show"), ("--set MODEL__NAME=tiny", "set KEY=VALUE"), ("--reset", "unset --all")],
)
def test_a_flag_of_another_tool_names_the_command(capsys, there, here):
    code, _, err = run(capsys, *there.split())
    assert code == 1
    assert f"backprop config {here}" in err


def test_a_key_may_be_spelt_as_a_variable(capsys):
    assert run(capsys, "set", "MODEL__NAME=tiny", "BACKPROPAGATE_TRAINING__LEARNING_RATE=1e-3")[0] == 0
    assert (resolve().model.model, resolve().training.learning_rate) == ("tiny", 1e-3)
    assert run(capsys, "unset", "MODEL__NAME")[0] == 0
    code, _, err = run(capsys, "set", "MODEL__NAM=tiny")
    assert code == 1
    assert "hint:" in err
