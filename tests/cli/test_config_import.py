"""backprop config import: every key of a LoRA Craft configuration is carried, or told by name with what stands for it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from bp_cli.main import main
from bp_core.settings.knobs import KEYWORDS
from bp_core.settings.lora_craft import translate
from bp_core.settings.resolve import by_group, resolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity import facts

CONFIG = {
    "name": "math-reasoning-config",
    "model": {"name": "unsloth/Qwen3-1.7B", "lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0},
    "dataset": {
        "source": "openai/gsm8k",
        "split": "train",
        "instruction_field": "question",
        "response_field": "answer",
        "max_samples": None,
    },
    "training": {
        "num_epochs": 3,
        "batch_size": 1,
        "gradient_accumulation_steps": 8,
        "learning_rate": 0.0002,
        "warmup_steps": 10,
        "weight_decay": 0.001,
        "max_grad_norm": 0.3,
        "lr_scheduler_type": "constant",
        "optim": "adamw_8bit",
        "max_sequence_length": 2048,
        "max_new_tokens": 512,
        "temperature": 0.7,
    },
    "grpo": {"kl_penalty": 0.05, "clip_range": 0.2, "importance_sampling_level": "token"},
    "reward": {"type": "preset", "preset_name": "math"},
    "pre_training": {"enabled": True, "epochs": 2, "max_samples": 100, "learning_rate": 0.00005},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("craft.json").write_text(json.dumps(CONFIG))
    return tmp_path


def run(capsys, *argv):
    code = main(["config", "import", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_example_holds_every_key_that_the_documents_name():
    assert {(f.where, f.name) for f in facts("config")} == {
        (group, key) for group, values in CONFIG.items() if isinstance(values, dict) for key in values
    }


def test_what_is_carried_is_what_a_run_then_takes(capsys):
    code, out, err = run(capsys, "craft.json", "--json")
    told = json.loads(out)
    assert code == 0
    found = resolve()
    assert found.model.model == "unsloth/Qwen3-1.7B"
    assert (found.lora.rank, found.lora.alpha, found.training.epochs) == (16, 32.0, 3.0)
    assert (found.training.gradient_accumulation, found.training.scheduler) == (8, "constant")
    assert (found.training.max_grad_norm, found.model.max_seq_length) == (0.3, 2048)
    assert found.data.data == ("hf:openai/gsm8k/main:train",)
    assert found.data.map == "question=prompt,answer=completion"
    assert found.data.samples is None
    assert set(told["set"]) == {n for n, s in found.sources.items() if s == "backprop.toml"}
    for key in told["left_out"]:
        assert f"not carried: {key}: " in err
    rl = found.rl
    assert (rl.pre_training_epochs, rl.pre_training_samples, rl.pre_training_learning_rate) == (2, 100, 5e-5)
    assert (rl.kl_beta, rl.clip_low, rl.max_completion_length) == (0.05, 0.2, 512)


def test_a_pre_training_that_is_off_says_nothing():
    off = translate({"pre_training": {"enabled": False, "epochs": 2, "max_samples": 9}})
    assert (off.settings, off.left) == ({}, {})
    on = translate({"pre_training": {"enabled": True, "epochs": None}})
    assert on.settings == {"pre_training_epochs": 1}


@pytest.mark.parametrize("key", sorted(f"{f.where}.{f.name}" for f in facts("config")))
def test_each_key_is_carried_or_told(key):
    group, _, name = key.partition(".")
    value = CONFIG[group][name]
    taken = translate({group: {name: value}} if group != "dataset" else {group: CONFIG[group]})
    if value is not None and group != "pre_training" and (key, value) != ("reward.type", "preset"):
        assert taken.settings or key in taken.left
    assert not set(taken.left) - {key}


def test_a_dry_run_writes_nothing_and_what_stands_in_the_file_stays(capsys):
    Path("backprop.toml").write_text("[training]\nseed = 7  # mine\n")
    before = Path("backprop.toml").read_text()
    assert run(capsys, "craft.json", "--dry-run")[0] == 0
    assert Path("backprop.toml").read_text() == before
    assert run(capsys, "craft.json")[0] == 0
    assert "seed = 7  # mine" in Path("backprop.toml").read_text()
    assert tomllib.loads(Path("backprop.toml").read_text())["lora"]["rank"] == 16


@pytest.mark.parametrize(
    "text", ["[1]", "{", '"a"', "\0", "[" * 100_000, '{"model": {"lora_rank": 1' + "0" * 5000]
)
def test_what_is_no_configuration_is_refused(capsys, text):
    Path("bad.json").write_text(text)
    code, _, err = run(capsys, "bad.json")
    assert (code, err.split()[0]) == (1, "[CONFIG_FILE_UNREADABLE]")
    assert not Path("backprop.toml").exists()
    assert run(capsys, "none.json")[0] == 1


def test_values_that_no_run_could_have_are_told(capsys):
    config = {
        "model": {"lora_rank": -1, "name": ["x"]},
        "training": {"learning_rate": "fast", "optim": "lion", "flash_attention": True},
        "dataset": {"source": "rows.jsonl", "split": "test", "instruction_field": "q", "shuffle": True},
        "reward": {"type": "custom"},
        "extra": 3,
    }
    Path("odd.json").write_text(json.dumps(config))
    code, out, _ = run(capsys, "odd.json", "--json")
    left = json.loads(out)["left_out"]
    assert code == 0
    assert {
        "model.lora_rank", "model.name", "training.learning_rate", "training.optim", "training.flash_attention",
        "dataset.split", "dataset.instruction_field", "dataset.shuffle", "reward.type", "extra",
    } == set(left)  # fmt: skip
    assert resolve().data.data == ("rows.jsonl",)


LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
KEYS = st.sampled_from([*(f.name for f in facts("config")), *list(KEYWORDS)[:40], "odd"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([*CONFIG, "odd"]), LEAF | st.dictionaries(KEYS, LEAF | st.lists(LEAF)))
)
def test_whatever_stands_there_is_carried_or_told(config):
    taken = translate(config)
    named = {KEYWORDS[name] for name in taken.settings}
    assert named <= set(KEYWORDS.values())
    for name, value in taken.settings.items():
        if name not in ("data", "map", "method"):
            from bp_core.settings.knobs import group_of

            by_group({group_of(KEYWORDS[name]): {KEYWORDS[name]: value}}, "")
