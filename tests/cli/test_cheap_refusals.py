"""What is wrong is told before torch, or anything else that is slow to load: each command with a wrong input of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bp_cli.root import COMMANDS

# one process for all of them: what one command loads, all later ones show
PROBE = """
import contextlib, io, json, sys
from bp_cli.main import main
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(line)
    heavy = [m for m in sys.argv[1:] if m in sys.modules]
    print(json.dumps({"code": int(code), "heavy": heavy, "out": out.getvalue(), "err": err.getvalue()}))
"""
DATA = '{"prompt": "Why?", "completion": "So."}\n' * 3
# each costs as much as the interpreter and click together, or several times that
SLOW = (
    *(
        "torch",
        "transformers",
        "peft",
        "datasets",
        "pyarrow",
        "huggingface_hub",
        "tokenizers",
        "safetensors",
        "gguf",
    ),
    *("numpy", "httpx", "pydantic", "structlog", "rich", "yaml", "jinja2", "psutil", "pynvml", "asyncio"),
)
NO_JSON = ("chat", "completion", "export-runs", "ui")
TRAIN = ("train", "-d", "data.jsonl", "-m", "tiny")
# command line → what is told
WRONG = {
    ("prompt-template", "show", "nothing"): "CONFIG_PROMPT_TEMPLATE",
    ("quickstart", "-o", "data.jsonl"): "STATE_RUNS_UNWRITABLE",
    ("train", "-d", "no.jsonl", "-m", "tiny"): "INPUT_DATASET_NOT_FOUND",
    ("train", "-m", "tiny"): "INPUT_DATA_MISSING",
    ("train", "-d", "data.jsonl", "-m", "./no-model"): "DEP_MODEL_LOAD_FAILED",
    (*TRAIN, "--learning-rate", "-1"): "CONFIG_INVALID_SETTING",
    ("config", "set", "stepps=1"): "CONFIG_INVALID_SETTING",
    ("support-bundle", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("doctor", "--nope"): "INPUT_USAGE",
    ("estimate-vram", "--vram-gb", "-1"): "INPUT_VALIDATION_FAILED",
    ("plan", "no.jsonl"): "INPUT_DATASET_NOT_FOUND",
    ("plan", "data.jsonl", "--vram-gb", "-1"): "INPUT_VALIDATION_FAILED",
    ("multi-run", "-d", "no.jsonl", "-m", "tiny"): "INPUT_DATASET_NOT_FOUND",
    ("multi-run", "-d", "data.jsonl", "-m", "tiny", "--replay-fraction", "2"): "CONFIG_INVALID_SETTING",
    ("multi-run", "--resume", "nobody"): "INPUT_RUN_NOT_FOUND",
    (*TRAIN, "--steps", "3", "--epochs", "1"): "CONFIG_CONFLICT",
    (*TRAIN, "--init-adapter", "no-adapter"): "INPUT_ADAPTER_INVALID",
    (*TRAIN, "--tracker", "wandbb"): "INPUT_TRACKER_UNKNOWN",
    (*TRAIN, "--chat-template", "chatmll"): "CONFIG_TEMPLATE_UNKNOWN",
    (*TRAIN, "--backend", "mlx"): "DEP_MLX_UNAVAILABLE",
    (*TRAIN, "--fp8"): "DEP_FP8_UNAVAILABLE",
    (*TRAIN, "--backend", "cpu", "--dtype", "float16"): "CONFIG_INVALID_SETTING",
    (*TRAIN, "--run-id", "a/b"): "CONFIG_INVALID_SETTING",
    (*TRAIN, "--config", "no.toml"): "CONFIG_FILE_UNREADABLE",
    (*TRAIN, "--dry-run", "--map", "nothing"): "INPUT_MAPPING_INVALID",
    (*TRAIN, "--data-format", "shargpt"): "INPUT_FORMAT_UNKNOWN",
    (*TRAIN, "--pause-temperature", "60", "--resume-temperature", "70"): "CONFIG_INVALID_SETTING",
    (*TRAIN, "-o", "data.jsonl"): "STATE_RUNS_UNWRITABLE",
    ("resume", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("replay", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("replay", "no/manifest.json"): "INPUT_MANIFEST_INVALID",
    ("replay", "nobody", "--override", "lr"): "CONFIG_INVALID_SETTING",
    ("generate", "./no/adapter", "Why?"): "INPUT_MODEL_NOT_FOUND",
    ("generate", "no/model", "Why?"): "DEP_MODEL_LOAD_FAILED",
    ("eval", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("eval", "tiny", "--metric", "f2"): "INPUT_METRIC_UNKNOWN",
    ("eval", "tiny", "--heldout", "no.jsonl"): "INPUT_DATASET_NOT_FOUND",
    ("eval", "tiny", "--pack", "no.toml"): "INPUT_EVAL_PACK_INVALID",
    ("eval", "tiny", "--vs", "base"): "CONFIG_CONFLICT",
    ("eval", "tiny", "--gate-against", "tiny"): "INPUT_DATA_MISSING",
    ("batch-test", "no.txt"): "INPUT_RUN_NOT_FOUND",
    ("batch-test", "no.txt", "-m", "tiny"): "INPUT_PROMPTS_UNREADABLE",
    ("chat", "./no.gguf"): "INPUT_MODEL_NOT_FOUND",
    ("serve", "tiny", "--host", "0.0.0.0"): "CONFIG_SERVE_OPEN",
    ("generate", "adapter", "Why?", "--base", "./no-model"): "DEP_MODEL_LOAD_FAILED",
    ("generate", "nobody", "Why?"): "INPUT_RUN_NOT_FOUND",
    ("export", "no/adapter"): "INPUT_ADAPTER_INVALID",
    ("export", "adapter", "-f", "gguf", "--base-model", "./no-model"): "DEP_MODEL_LOAD_FAILED",
    ("push", "no/adapter", "--repo", "a/b"): "INPUT_VALIDATION_FAILED",
    ("pull", "not a name", "-o", "x"): "INPUT_REPO_ID_INVALID",
    ("ollama", "register", "no.gguf"): "INPUT_VALIDATION_FAILED",
    ("data", "report", "no.jsonl"): "INPUT_DATASET_NOT_FOUND",
    ("validate", "no.jsonl"): "INPUT_DATASET_NOT_FOUND",
    ("merge", "inspect", "no/adapter"): "INPUT_ADAPTER_INVALID",
    ("runs", "--status", "lost"): "INPUT_USAGE",
    ("show-run", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("diff-runs", "nobody", "none"): "INPUT_RUN_NOT_FOUND",
    ("stop", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("export-runs", "--status", "lost"): "INPUT_USAGE",
    ("info", "./no-model"): "DEP_MODEL_LOAD_FAILED",
    ("reward", "show", "nothing"): "CONFIG_REWARD_INVALID",
    ("ui", "--share"): "RUNTIME_UI_AUTH_NOT_ENFORCED",
    ("completion", "tcsh"): "INPUT_USAGE",
}


def tell(folder, lines, heavy):
    """What each command line told in one process, and which of the modules were loaded by then."""
    lines = [[*a, *([] if a[0] in NO_JSON else ["--json"])] for a in lines]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *heavy],
        input=json.dumps(lines),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("BACKPROPAGATE_")},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with a dataset and an adapter."""
    made = tmp_path_factory.mktemp("place")
    (made / "data.jsonl").write_text(DATA)
    shutil.copytree(Path(__file__).parents[1] / "corpus" / "adapter-0.1.0", made / "adapter")
    return made


@pytest.fixture(scope="module")
def told(folder):
    """What each command line told, in one process."""
    return dict(zip(WRONG, tell(folder, WRONG, ("torch", "transformers", "peft")), strict=True))


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_input_is_told_before_torch_is_loaded(told, arguments):
    found = told[arguments]
    assert found["code"] not in (0, None), found
    assert found["heavy"] == []
    if arguments[0] in NO_JSON:
        assert f"[{WRONG[arguments]}]" in found["err"] or "Usage: " in found["err"]
    else:
        assert json.loads(found["out"])["error"]["code"] == WRONG[arguments], found["err"]


# in this order in one process: what one of them loads shows in it and in all that follow
CHEAP = {
    ("show-run", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("resume", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("replay", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("generate", "./no/adapter", "Why?"): "INPUT_MODEL_NOT_FOUND",
    ("eval", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("batch-test", "no.txt"): "INPUT_RUN_NOT_FOUND",
    ("generate", "nobody", "Why?"): "INPUT_RUN_NOT_FOUND",
    ("export", "./no/adapter"): "INPUT_ADAPTER_INVALID",
    ("export", "nobody"): "INPUT_RUN_NOT_FOUND",
    ("merge", "inspect", "./no/adapter"): "INPUT_ADAPTER_INVALID",
    ("merge", "compare", "./no/a", "./no/b"): "INPUT_ADAPTER_INVALID",
    ("push", "./no/adapter", "--repo", "a/b"): "INPUT_VALIDATION_FAILED",
    ("push", "nobody", "--repo", "a/b"): "INPUT_RUN_NOT_FOUND",
    ("ollama", "register", "./no.gguf"): "INPUT_VALIDATION_FAILED",
    ("train", "-d", "no.jsonl", "-m", "tiny"): "INPUT_DATASET_NOT_FOUND",
    ("train", "-m", "tiny"): "INPUT_DATA_MISSING",
    (*TRAIN, "--learning-rate", "-1"): "CONFIG_INVALID_SETTING",
    (*TRAIN, "--steps", "3", "--epochs", "1"): "CONFIG_CONFLICT",
    (*TRAIN, "--config", "no.toml"): "CONFIG_FILE_UNREADABLE",
    (*TRAIN, "--run-id", "a/b"): "CONFIG_INVALID_SETTING",
}


def test_a_wrong_input_is_told_before_anything_slow_is_loaded(folder):
    for arguments, told in zip(CHEAP, tell(folder, CHEAP, SLOW), strict=True):
        assert CHEAP[arguments] in told["out"], told
        assert told["heavy"] == [], arguments


def test_every_command_has_a_wrong_input():
    assert {line[0] for line in WRONG} >= set(COMMANDS)
