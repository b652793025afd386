"""Base models: folders, entry points, and names that mean nothing (the Hub's part is in test_export_hub)."""

from __future__ import annotations

import json

import pytest
from bp_export.adapter.base import resolve_base
from bp_merge.common import BpError


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w")
    return folder


def code_of(call) -> BpError:
    with pytest.raises(BpError) as caught:
        call()
    return caught.value


def test_a_folder(base, monkeypatch):
    found = resolve_base(base)
    assert (found.path, found.revision, found.source) == (base.resolve(), None, "path")
    assert resolve_base(base / "model.safetensors").path == base.resolve()
    monkeypatch.chdir(base.parent)
    assert resolve_base("base").path == base.resolve()
    assert resolve_base("./base/").path == base.resolve()


def test_an_entry_point():
    found = resolve_base("tiny")
    assert found.source == "entry_point"
    assert (found.path / "config.json").is_file()


@pytest.mark.parametrize("ref", ["./none", "/none/here", "~/none-here", "a/b/c", "none/", "C:\\models\\x"])
def test_a_path_is_never_asked_of_the_hub(ref):
    error = code_of(lambda: resolve_base(ref))
    assert (error.code, error.details["cause"]) == ("DEP_MODEL_LOAD_FAILED", "not_found")


@pytest.mark.parametrize("ref", ["", "two words", "-x", "a/b?c"])
def test_what_is_no_name_at_all(ref, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert code_of(lambda: resolve_base(ref)).code in ("DEP_MODEL_LOAD_FAILED", "INPUT_BASE_INCOMPLETE")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda d: (d / "config.json").write_text("{"), "not readable JSON"),
        (
            lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"),
            "no safetensors weights (it has pytorch",
        ),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "shard index"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
            ),
            "lacks 1 of 1 weight files",
        ),
    ],
)
def test_an_incomplete_folder_is_named(base, damage, told):
    damage(base)
    error = code_of(lambda: resolve_base(base))
    assert error.code == "INPUT_BASE_INCOMPLETE"
    assert told in error.message
    assert error.hint


def test_two_revisions(base):
    assert code_of(lambda: resolve_base("a/b@x", "y")).code == "INPUT_VALIDATION_FAILED"


@pytest.mark.parametrize("ref", ["tiny", "folder", "file"])
def test_a_revision_of_what_has_none_is_refused(base, ref):
    ref = {"tiny": "tiny", "folder": base, "file": base / "model.safetensors"}[ref]
    error = code_of(lambda: resolve_base(ref, "abc"))
    assert (error.code, error.details["cause"]) == ("DEP_MODEL_LOAD_FAILED", "no_revisions")
    assert "has no revisions" in error.message
    assert "--revision abc" in error.hint
    assert resolve_base(ref, "").revision is None
