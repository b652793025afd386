"""Every setting is declared once and comes from where the user put it."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from bp_core.settings.knobs import GROUPS, KEYWORDS, Settings, knob_of
from bp_core.settings.resolve import explain, from_record, resolve
from bp_core.settings.variables import VARIABLES
from bp_merge.common import BpError, knobs


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name.startswith("BACKPROPAGATE_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_each_source_beats_the_one_before(clean, monkeypatch):
    assert resolve().training.seed == 42
    (clean / "backprop.toml").write_text("[training]\nseed = 1\nlr = 1e-3\n")
    assert resolve().training.seed == 1
    (clean / ".env").write_text("BACKPROPAGATE_TRAINING__SEED=2\nSOMETHING_ELSE=x\n")
    assert resolve().training.seed == 2
    monkeypatch.setenv("BACKPROPAGATE_TRAINING__SEED", "3")
    assert resolve().training.seed == 3
    settings = resolve({"seed": 4})
    assert settings.training.seed == 4
    assert settings.training.learning_rate == 1e-3  # an alias, from the file
    sources = {name: source for name, _, source in explain(settings)}
    assert (sources["training.seed"], sources["training.learning_rate"], sources["lora.rank"]) == (
        "given",
        "backprop.toml",
        "default",
    )


@pytest.mark.parametrize(
    ("variable", "value", "group", "name", "expected"),
    [
        ("BACKPROPAGATE_LORA__R", "16", "lora", "rank", 16),
        ("BACKPROPAGATE_LOG_LEVEL", "DEBUG", "tracking", "log_level", "DEBUG"),
        ("BACKPROPAGATE_MODEL__NAME", "tiny", "model", "model", "tiny"),
        ("BACKPROPAGATE_MODEL__MAX_SEQ_LENGTH", "99", "model", "max_seq_length", 99),
        ("BACKPROPAGATE_LORA__USE_DORA", "true", "lora", "use_dora", True),
        (
            "BACKPROPAGATE_LORA__TARGET_MODULES",
            "q_proj, v_proj",
            "lora",
            "target_modules",
            ("q_proj", "v_proj"),
        ),
        ("BACKPROPAGATE_LORA__TARGET_MODULES", '["q_proj"]', "lora", "target_modules", ("q_proj",)),
    ],
)
def test_the_names_that_users_know(monkeypatch, variable, value, group, name, expected):
    monkeypatch.setenv(variable, value)
    assert getattr(getattr(resolve(), group), name) == expected


@pytest.mark.parametrize("keyword", ["lr", "learning_rate"])
def test_keywords_have_aliases(keyword):
    assert resolve({keyword: 3e-4}).training.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lrr": 1}, "did you mean 'lr'"),
        ({"rank": 0}, "greater than 0"),
        ({"scheduler": "cosin"}, "one of constant"),
        ({"steps": "many"}, "a whole number"),
        ({"heldout_ratio": 1.5}, "less than 1"),
    ],
)
def test_what_is_wrong_is_told(given, told):
    with pytest.raises(BpError) as error:
        resolve(given)
    assert error.value.code == "CONFIG_INVALID_SETTING"
    assert told in error.value.message
    assert "backprop train --help" in error.value.hint


def by_each_source(folder, group, name, text):
    """The value of a setting, or the refusal, where its text stands in each source."""

    def outcome(read):
        try:
            return getattr(getattr(read(), group), name)
        except BpError as error:
            told = error.message.split(" (from ")[0]
            return told if error.code == "CONFIG_INVALID_SETTING" else error.code

    def flag():
        import click
        from bp_merge.common import options

        found = {}
        command = click.command()(options(*GROUPS.values())(lambda **given: found.update(given)))
        words = [f"--{name.replace('_', '-')}", text]
        command.main(words, standalone_mode=False)
        return resolve(found)

    def written(file, content):
        (folder / file).write_text(content)
        try:
            return resolve()
        finally:
            (folder / file).unlink()

    variable = f"BACKPROPAGATE_{group}__{name}".upper()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, text)
        environment = outcome(resolve)
    return {
        "keyword": outcome(lambda: resolve({name: text})),
        "flag": outcome(flag),
        "environment": environment,
        ".env": outcome(lambda: written(".env", f"{variable}='{text}'\n")),
        "TOML": outcome(lambda: written("backprop.toml", f"[{group}]\n{name} = '{text}'\n")),
    }


@pytest.mark.parametrize(
    ("group", "name", "text", "expected"),
    [
        ("lora", "rank", "16", 16),
        ("lora", "rank", "1e2", 100),
        ("lora", "rank", "none", None),
        ("lora", "rank", "0", "lora.rank must be greater than 0, not '0'"),
        ("lora", "rank", "1.5", "lora.rank must be a whole number, not '1.5'"),
        ("lora", "rank", "many", "lora.rank must be a whole number, not 'many'"),
        ("training", "learning_rate", "2e-4", 2e-4),
        ("training", "learning_rate", "nan", "training.learning_rate must be a finite number, not 'nan'"),
        ("training", "learning_rate", "inf", "training.learning_rate must be a finite number, not 'inf'"),
        ("training", "scheduler", "COSINE", "cosine"),
        ("lora", "target_modules", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("training", "log_prompts", "Hello, you", ("Hello, you",)),
        ("data", "data", "a,b.jsonl", ("a,b.jsonl",)),
        ("model", "revision", "1234", "1234"),
    ],
)
def test_a_text_means_the_same_in_every_source(clean, group, name, text, expected):
    found = by_each_source(clean, group, name, text)
    assert found == dict.fromkeys(found, expected)


@pytest.mark.parametrize(
    "value", [True, float("nan"), float("inf"), -float("inf"), "1e999", [1], {}, 10**400]
)
def test_a_number_is_a_finite_number(value):
    for name in ("learning_rate", "rank", "epochs", "seed"):
        with pytest.raises(BpError, match=r"must be (a|at most|less than|greater than|at least)"):
            resolve({name: value})


def test_one_setting_under_two_names_is_refused_and_a_later_call_wins():
    with pytest.raises(BpError, match="learning_rate and lr are one setting"):
        resolve({"lr": 1e-3, "learning_rate": 1e-4})
    from bp_core import Trainer

    with pytest.raises(BpError, match="model and model_name are one setting"):
        Trainer("tiny", model_name="other")


def test_unknown_keys_are_refused_wherever_they_stand(clean, monkeypatch):
    (clean / "backprop.toml").write_text("[lora]\nrnak = 3\n")
    with pytest.raises(BpError, match=r"lora.rnak.*did you mean 'lora.rank'"):
        resolve()
    (clean / "backprop.toml").write_text("[lroa]\nrank = 3\n")
    with pytest.raises(BpError, match="did you mean 'lora'"):
        resolve()
    (clean / "backprop.toml").unlink()
    monkeypatch.setenv("BACKPROPAGATE_TRAINING__STEPZ", "3")
    with pytest.raises(BpError, match=r"training.stepz"):
        resolve()


def test_a_broken_file_is_told(clean):
    (clean / "backprop.toml").write_text("[lora\n")
    with pytest.raises(BpError) as error:
        resolve()
    assert error.value.code == "CONFIG_FILE_UNREADABLE"
    with pytest.raises(BpError) as error:
        resolve(config_file=clean / "other.toml")
    assert error.value.code == "CONFIG_FILE_UNREADABLE"


def test_a_record_gives_the_settings_back(clean):
    settings = resolve({"model": "tiny", "data": ["a", "b"], "rank": 4, "output": clean})
    back = from_record(settings.to_dict(), {"seed": 7})
    assert dataclasses.replace(back, sources={}) == dataclasses.replace(
        settings.replace("x", seed=7), sources={}
    )


def test_no_two_knobs_share_a_name_flag_or_variable():
    everything = [k for cls in GROUPS.values() for k in knobs(cls)]
    for names in (
        [n for k in everything for n in (k.name, *k.keywords)],
        [f for k in everything for f in (f"--{k.name.replace('_', '-')}", *k.flags)],
        [v for k in everything for v in k.env],
    ):
        assert len(set(names)) == len(names)
    assert all(k.help and k.group for k in everything)
    assert {KEYWORDS[k.name] for k in everything} == {k.name for k in everything}
    assert knob_of("rank").flags == ("--lora-r", "-r")
    assert Settings().lora.preset == "auto"


def test_every_variable_that_the_code_reads_is_in_the_table():
    packages = Path(__file__).parents[2] / "packages"
    reads = r"environ(?:\.get|\.setdefault)?[\[(]\s*\"([A-Z_]+)\""
    texts = [file.read_text("utf-8") for file in packages.rglob("src/**/*.py")]
    read = {name for text in texts for name in re.findall(reads, text)}
    read |= {
        name
        for text in texts
        for name in re.findall(r"^(?:ENV|FOLDER|LMSTUDIO_HOME) = \"([A-Z_]+)\"", text, re.M)
    }
    assert {"OLLAMA_HOST", "BP_DATA_MAPPERS", "BACKPROPAGATE_LEASE_DIR", "LMSTUDIO_MODELS"} <= read
    assert read <= set(VARIABLES)


def test_a_variable_of_the_table_is_accepted_and_one_beside_it_refused(monkeypatch):
    monkeypatch.setenv("BACKPROPAGATE_DEBUG", "0")
    monkeypatch.setenv("BACKPROPAGATE_UI_PORT", "7862")
    resolve()
    monkeypatch.setenv("BACKPROPAGATE_DEBUGG", "1")
    with pytest.raises(BpError, match="BACKPROPAGATE_DEBUGG"):
        resolve()


def test_every_dataclass_of_knobs_is_on_the_settings_page():
    root = Path(__file__).parents[2]
    page = (root / "docs/reference/settings.md").read_text("utf-8")
    for file in root.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and re.search(r" = (?:knob|like)\(", ast.unparse(node)):
                assert node.name in page or (ast.get_docstring(node) or "?") in page, (
                    f"{file.name}: {node.name}"
                )
    for name in VARIABLES:
        assert f"`{name}`" in page


def test_one_declaration_serves_every_surface():
    """A knob that several surfaces have is declared in one place; the others take it over."""
    import inspect

    from bp_cli.root import cli
    from bp_core.trainer import Trainer
    from bp_data.clean import CleanSettings
    from bp_data.report.settings import ReportSettings
    from bp_data.split import SplitSettings

    for cls in (CleanSettings, ReportSettings):
        for name in ("dup_threshold", "shingle"):
            ours, theirs = ({k.name: k for k in knobs(c)}[name] for c in (cls, SplitSettings))
            assert (ours.default, ours.choices, ours.bounds) == (
                theirs.default,
                theirs.choices,
                theirs.bounds,
            )
    level = next(p for p in cli.params if p.name == "log_level")
    assert tuple(level.type.choices) == knob_of("log_level").choices
    assert Settings().data.heldout_ratio == SplitSettings().ratio
    assert "quantization" not in inspect.signature(Trainer.register_with_ollama).parameters
