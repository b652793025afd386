"""Failures of bp-export's public calls, bp-merge's among them, caught by `bp_export.BpError`."""

from __future__ import annotations

from pathlib import Path

import bp_export
import pytest
from adapters import write_adapter
from bp_export.errors import CODES
from provoked import provoke

HERE = Path(__file__).parent


def adapter(p, **fields):
    return write_adapter(p / "adapter", base_ref=str(p / "no-base"), **fields)


def text(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def export(p, **settings):
    return bp_export.export(adapter(p), **settings)


def weights_cut(p):
    folder = adapter(p)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    bp_export.export(folder, format="lora", output=p / "out")


def configured(p, content):
    text(p / "a" / "adapter_model.safetensors")
    bp_export.AdapterInfo.read(text(p / "a" / "adapter_config.json", content).parent)


ROWS = {
    "no adapter": ("INPUT_ADAPTER_INVALID", "no adapter directory", lambda p: bp_export.export(p / "no")),
    "a folder of nothing": (
        "INPUT_ADAPTER_INVALID",
        "adapter_config.json",
        lambda p: bp_export.AdapterInfo.read(p),
    ),
    "no weights": (
        "INPUT_ADAPTER_INVALID",
        "adapter_model.safetensors",
        lambda p: bp_export.AdapterInfo.read(text(p / "a" / "adapter_config.json", "{}").parent),
    ),
    "a configuration that is no JSON": ("INPUT_ADAPTER_INVALID", "JSON", lambda p: configured(p, "{")),
    "a configuration that is a list": ("INPUT_ADAPTER_INVALID", "JSON object", lambda p: configured(p, "[]")),
    "weights cut": ("INPUT_ADAPTER_INVALID", "", weights_cut),
    "no base": ("DEP_MODEL_LOAD_FAILED", "no folder", lambda p: export(p, format="merged")),
    "a base by no name": ("DEP_MODEL_LOAD_FAILED", "", lambda p: bp_export.resolve_base("a b c")),
    "a base without a configuration": (
        "INPUT_BASE_INCOMPLETE",
        "config.json",
        lambda p: bp_export.resolve_base(text(p / "m" / "x").parent),
    ),
    "a base with a broken configuration": (
        "INPUT_BASE_INCOMPLETE",
        "JSON",
        lambda p: bp_export.resolve_base(text(p / "m" / "config.json", "{").parent),
    ),
    "a base without weights": (
        "INPUT_BASE_INCOMPLETE",
        "safetensors",
        lambda p: bp_export.resolve_base(text(p / "m" / "config.json", "{}").parent),
    ),
    "a setting by no name": ("INPUT_VALIDATION_FAILED", "no setting", lambda p: export(p, fromat="gguf")),
    "Ollama without a model": (
        "INPUT_VALIDATION_FAILED",
        "GGUF",
        lambda p: export(p, format="lora", ollama=True),
    ),
    "an Ollama adapter without a base": (
        "INPUT_VALIDATION_FAILED",
        "base",
        lambda p: export(p, format="ollama-adapter"),
    ),
    "no such file to register": (
        "INPUT_VALIDATION_FAILED",
        "there is no",
        lambda p: bp_export.register(p / "no.gguf", "x", client=None),
    ),
    "a repository by no name": (
        "INPUT_REPO_ID_INVALID",
        "no repository name",
        lambda p: bp_export.push(adapter(p), "a b c", dry_run=True),
    ),
    "a token file that is not there": (
        "INPUT_TOKEN_FILE_INVALID",
        "cannot be read",
        lambda p: bp_export.pull("a/b", p / "out", token_file=p / "no"),
    ),
    "a token and a token file": (
        "INPUT_VALIDATION_FAILED",
        "token",
        lambda p: bp_export.pull("a/b", p / "out", token="x", token_file=p / "no"),
    ),
    "no server": (
        "DEP_OLLAMA_UNREACHABLE",
        "no Ollama server",
        lambda p: bp_export.Ollama("127.0.0.1:9").models(),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_class_catches_it_with_cause_and_hint(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, cause, call = ROWS[row]
    provoke(bp_export.BpError, code, cause, lambda: call(tmp_path))


def test_every_other_code_is_provoked_in_a_file_of_its_own():
    """Those that need a model, a server or the Hub stand with the fixtures and fakes that they need."""
    others = set(CODES) - {row[0] for row in ROWS.values()}
    texts = "".join(
        f.read_text(encoding="utf-8")
        for folder in ("export", "cli", "e2e")
        for f in (HERE.parent / folder).rglob("test_*.py")
        if f != Path(__file__)
    )
    assert {code for code in others if f'"{code}"' not in texts} == set()
