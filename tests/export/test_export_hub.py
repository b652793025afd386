"""Push and pull over real HTTP: what goes, what stays, and every way in which it can go wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from adapters import write_adapter
from bp_export.adapter.base import resolve_base
from bp_export.adapter.card import make_card
from bp_export.adapter.directory import AdapterInfo
from bp_export.adapter.licences import licence_of
from bp_export.sharing.pull import pull
from bp_export.sharing.push import push
from bp_merge.common import BpError
from fakes.fake_hub import READ, WRITE, Fault, fake_hub
from huggingface_hub import constants

# huggingface_hub's plain LFS upload (Xet is off here) passes its file in httpx's deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub, with the library's cache in a folder of the test and Xet (which needs more than HTTP) off."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def adapter(tmp_path):
    return write_adapter(tmp_path / "adapter")


def code_of(call) -> BpError:
    with pytest.raises(BpError) as caught:
        call()
    return caught.value


def test_push_sends_the_adapter_and_nothing_else(hub, adapter):
    (adapter / "optimizer.pt").write_bytes(b"state")
    (adapter / "train.jsonl").write_text("secret")
    (adapter / "step-10").mkdir()
    (adapter / "step-10" / "adapter_model.safetensors").write_bytes(b"x")
    result = push(adapter, "tuned", token=WRITE, commit_message="ci: 7", private=True, revision="try")
    assert (result.repo_id, result.kind, result.revision) == ("alice/tuned", "adapter", "try")
    repo = hub.repos["alice/tuned"]
    assert repo.private
    files = repo.files("try")
    assert repo.files("main") == {}
    assert set(files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "backprop.json",
        "chat_template.jinja",
        "tokenizer_config.json",
        "README.md",
    }
    assert files["adapter_model.safetensors"] == (adapter / "adapter_model.safetensors").read_bytes()
    assert [c["summary"] for c in repo.commits] == ["ci: 7"]
    assert len(hub.uploads) == 1
    assert result.to_dict()["size_bytes"] == sum(map(len, files.values()))


def test_the_card_says_what_the_run_recorded(hub, adapter):
    push(adapter, "alice/tuned", token=WRITE)
    text = hub.repos["alice/tuned"].files()["README.md"].decode()
    head = yaml.safe_load(text.split("---")[1])
    assert head["base_model"] == "acme/base"
    assert head["base_model_relation"] == "adapter"
    assert head["library_name"] == "peft"
    assert head["license"] == "apache-2.0"
    assert head["datasets"] == ["acme/facts"]
    [metric] = head["model-index"][0]["results"][0]["metrics"]
    assert (metric["type"], metric["value"]) == ("loss", 1.25)
    for told in (
        "learning_rate | 0.0002",
        "## Loss",
        "█",
        "backprop replay run-1234",
        "limits",
        "mine.jsonl",
    ):
        assert told in text, told
    assert "/home/me" not in text
    assert "More Information Needed" not in text


def test_a_local_base_path_does_not_leave(hub, tmp_path):
    folder = write_adapter(tmp_path / "a", base_ref=str(tmp_path / "models" / "private-base"))
    lines: list[str] = []
    push(folder, "alice/a", token=WRITE, note=lines.append)
    files = hub.repos["alice/a"].files()
    assert all(str(tmp_path).encode() not in data for data in files.values())
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "private-base"
    assert any("--base-model" in line for line in lines)
    push(folder, "alice/a", token=WRITE, base_model="acme/base")
    config = json.loads(hub.repos["alice/a"].files()["adapter_config.json"])
    assert config["base_model_name_or_path"] == "acme/base"


def test_an_authors_own_card_is_kept(hub, adapter):
    (adapter / "README.md").write_text("---\nlicense: mit\n---\nMine.")
    push(adapter, "alice/tuned", token=WRITE)
    assert hub.repos["alice/tuned"].files()["README.md"] == b"---\nlicense: mit\n---\nMine."
    (adapter / "README.md").write_text("---\nlicense: not-a-licence\n---\nMine.")
    error = code_of(lambda: push(adapter, "alice/tuned", token=WRITE))
    assert error.code == "HUB_REJECTED"
    assert "license" in error.message


def test_dry_run_lists_and_touches_nothing(hub, adapter):
    result = push(adapter, "alice/tuned", dry_run=True)
    assert result.dry_run
    assert "adapter_model.safetensors" in dict(result.files)
    assert hub.requests == []
    assert not (adapter / "README.md").exists()


def test_tokens(hub, adapter, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(WRITE + "\n")
    file.chmod(0o644)
    lines: list[str] = []
    push(adapter, "alice/one", token_file=file, note=lines.append)
    assert os.name == "nt" or any("chmod 600" in line for line in lines)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    push(adapter, "alice/two")
    monkeypatch.delenv("HF_TOKEN")
    error = code_of(lambda: push(adapter, "alice/three"))
    assert (error.code, error.exit_code) == ("HUB_AUTH_FAILED", 69)
    assert "hf auth login" in error.hint
    assert code_of(lambda: push(adapter, "a/b", token="x", token_file=file)).code == "INPUT_VALIDATION_FAILED"
    file.write_text("two tokens")
    assert code_of(lambda: push(adapter, "a/b", token_file=file)).code == "INPUT_TOKEN_FILE_INVALID"
    missing = tmp_path / "none"
    assert code_of(lambda: push(adapter, "a/b", token_file=missing)).code == "INPUT_TOKEN_FILE_INVALID"


@pytest.mark.parametrize(
    ("token", "repo", "code"),
    [
        ("hf_wrongwrongwrongwrong", "alice/x", "HUB_AUTH_FAILED"),
        (READ, "alice/x", "HUB_FORBIDDEN"),
        (WRITE, "bob/x", "HUB_FORBIDDEN"),
        (WRITE, "bad name", "INPUT_REPO_ID_INVALID"),
        (WRITE, "a/b/c", "INPUT_REPO_ID_INVALID"),
    ],
)
def test_refusals_are_coded_and_hide_the_token(hub, adapter, token, repo, code):
    error = code_of(lambda: push(adapter, repo, token=token))
    assert error.code == code
    assert token not in json.dumps(error.to_dict())
    assert error.hint


def test_a_public_repository_is_not_made_private_silently(hub, adapter):
    hub.add("alice/open")
    assert code_of(lambda: push(adapter, "alice/open", private=True, token=WRITE)).code == "HUB_CONFLICT"
    assert hub.repos["alice/open"].commits == []


def test_an_interrupted_upload_goes_on(hub, adapter):
    hub.faults = [Fault("/commit/", 403)]
    assert code_of(lambda: push(adapter, "alice/x", token=WRITE)).code == "HUB_FORBIDDEN"
    assert hub.repos["alice/x"].files() == {}
    assert len(hub.uploads) == 1
    push(adapter, "alice/x", token=WRITE)
    assert len(hub.uploads) == 1, "the large file was there already"
    assert "adapter_model.safetensors" in hub.repos["alice/x"].files()


@pytest.mark.parametrize(
    "fault", [Fault("/repos/create", 0), Fault("/lfs/", 503), Fault("/lfs/", 0, after_bytes=100)]
)
def test_one_bad_moment_loses_nothing(hub, adapter, fault):
    hub.faults = [fault]
    push(adapter, "alice/x", token=WRITE)
    sent = hub.repos["alice/x"].files()["adapter_model.safetensors"]
    assert sent == (adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("status", [500, 0])
def test_retries_are_bounded(hub, adapter, status):
    hub.faults = [Fault("/repos/create", status, times=99)]
    error = code_of(lambda: push(adapter, "alice/x", token=WRITE))
    assert (error.code, error.retryable) == ("HUB_UNAVAILABLE", True)
    assert len(hub.requests) <= 4


def test_offline_and_nobody_there(hub, adapter, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert code_of(lambda: push(adapter, "alice/x", token=WRITE)).code == "HUB_OFFLINE"
    assert hub.requests == []


def test_pull_brings_back_what_was_pushed(hub, adapter, tmp_path):
    push(adapter, "alice/x", token=WRITE, private=True)
    out = pull("alice/x", tmp_path / "back", token=WRITE)
    assert AdapterInfo.read(out).run_id == "run-1234"
    assert (out / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    assert not (out / ".cache").exists()
    assert code_of(lambda: pull("alice/x", out, token=WRITE, no_overwrite=True)).code == "INPUT_OUTPUT_EXISTS"
    assert code_of(lambda: pull("alice/x", tmp_path / "none")).code in ("HUB_NOT_FOUND", "HUB_AUTH_FAILED")
    assert code_of(lambda: pull("alice/x@nope", tmp_path / "none", token=WRITE)).code == "HUB_NOT_FOUND"
    hub.add("alice/empty", {"notes.txt": b"x"})
    assert (
        code_of(lambda: pull("alice/empty", tmp_path / "none", token=WRITE)).code == "INPUT_ADAPTER_INVALID"
    )
    assert not (tmp_path / "none").exists()


def test_a_merged_model_that_is_pushed_is_the_adapters_own(hub, tmp_path):
    """What was merged before the adapter changed is not pushed for it."""
    from bp_merge.checkpoint import Checkpoint
    from tiny_models import build

    base = build("llama3", tmp_path / "base")
    adapter = write_adapter(tmp_path / "law", base_ref=str(base), base_path=base, scale=0.1)
    (adapter / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    planned = push(adapter, "alice/m", token=WRITE, include_base=True, dry_run=True)
    assert planned.kind == "merged"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {name for name, _ in planned.files}
    assert not (adapter / "merged").exists()
    assert hub.requests == []
    seen = []
    for seed in (0, 1, 1):
        write_adapter(adapter, base_ref=str(base), base_path=base, scale=0.1, seed=seed)
        push(adapter, "alice/m", token=WRITE, include_base=True)
        (tmp_path / "got.safetensors").write_bytes(hub.repos["alice/m"].files()["model.safetensors"])
        with Checkpoint.open(tmp_path / "got.safetensors") as sent:
            seen.append(sent.read("model.layers.0.self_attn.q_proj.weight").copy())
    assert not np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[1], seen[2])


def test_a_link_that_leads_out_is_refused(hub, adapter, tmp_path):
    if os.name == "nt":
        pytest.skip("links need a privilege on Windows")
    (tmp_path / "outside").write_text("secret")
    (adapter / "LICENSE").symlink_to(tmp_path / "outside")
    assert code_of(lambda: push(adapter, "alice/x", token=WRITE)).code == "INPUT_VALIDATION_FAILED"
    assert hub.requests == []


def test_what_cannot_be_pushed(tmp_path):
    assert code_of(lambda: push(tmp_path, "alice/x")).code == "INPUT_VALIDATION_FAILED"
    assert code_of(lambda: push(tmp_path / "none", "alice/x")).code == "INPUT_VALIDATION_FAILED"


def test_base_from_the_hub(hub, tmp_path):
    weights = {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"a pickle",
        "original/consolidated.00.pth": b"again",
        "tokenizer.json": b"{}",
    }
    repo = hub.add("acme/base", weights)
    base = resolve_base("acme/base")
    assert (base.source, base.revision) == ("hub", repo.at("main")[1])
    assert {f.name for f in base.path.iterdir()} == {"config.json", "model.safetensors", "tokenizer.json"}
    hub.requests.clear()
    hub.faults = [Fault("/", 0, times=99)]
    assert resolve_base("acme/base").path == base.path, "the cache serves when nobody answers"
    hub.faults = []
    assert resolve_base(f"acme/base@{base.revision}").path == base.path
    light = hub.add("acme/light", weights)
    assert "model.safetensors" not in {
        f.name for f in resolve_base("acme/light", weights=False).path.iterdir()
    }
    assert light


@pytest.mark.parametrize(
    ("setup", "ref", "cause"),
    [
        ({}, "acme/none", "not_found"),
        ({"private": True}, "acme/it", "not_found"),
        ({"gated": True}, "acme/it", "gated"),
        ({}, "acme/it@nope", "revision_not_found"),
    ],
)
def test_base_failures_name_their_cause(hub, setup, ref, cause):
    hub.add("acme/it", {"config.json": b"{}", "model.safetensors": b"w"}, **setup)
    error = code_of(lambda: resolve_base(ref))
    assert (error.code, error.details["cause"]) == ("DEP_MODEL_LOAD_FAILED", cause)
    assert error.hint


def fault(hub, status, monkeypatch, repo="acme/it"):
    """The Hub as it is from now on for one repository: gone, gated, private, or nobody there."""
    if status == 0:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif status == 403:
        hub.repos[repo].gated = True
    elif status == 401:
        hub.faults = [Fault(repo, 401, times=99)]
    else:
        del hub.repos[repo]


@pytest.mark.parametrize(
    ("status", "cause", "says", "hint"),
    [
        (401, "auth", "the Hub refused the token for acme/it", "hf auth login"),
        (
            403,
            "gated",
            "acme/it is gated: its owner must grant access first",
            "https://huggingface.co/acme/it",
        ),
        (404, "not_found", "no readable Hub repository named acme/it", "hf auth login"),
        (0, "network", "acme/it could not be fetched: ", "hf download acme/it"),
    ],
)
def test_each_refusal_is_told_and_a_whole_cached_copy_serves(hub, monkeypatch, status, cause, says, hint):
    hub.add("acme/it", {"config.json": b"{}", "model.safetensors": b"w"})
    fault(hub, status, monkeypatch)
    error = code_of(lambda: resolve_base("acme/it"))
    assert (error.code, error.details["cause"]) == ("DEP_MODEL_LOAD_FAILED", cause)
    assert says in error.message
    assert hint in error.hint
    # and the same with a copy in the cache: the configuration alone is no whole model, all of it is
    hub.faults = []
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.add("acme/it", {"config.json": b"{}", "model.safetensors": b"w"})
    resolve_base("acme/it", weights=False)
    fault(hub, status, monkeypatch)
    assert code_of(lambda: resolve_base("acme/it")).details["cause"] == cause
    hub.faults = []
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    whole = hub.add("acme/it", {"config.json": b"{}", "model.safetensors": b"w"})
    commit = whole.at("main")[1]
    assert resolve_base("acme/it").note == ""
    fault(hub, status, monkeypatch)
    found = resolve_base("acme/it")
    assert (found.revision, (found.path / "model.safetensors").read_bytes()) == (commit, b"w")
    if cause == "gated":
        assert found.note == ""  # the Hub tells the commit, and it is the one in the cache
    else:
        assert found.note.startswith("the Hub ")
        assert f"acme/it is taken from the cache, {commit[:12]}" in found.note


def test_base_without_safetensors(hub):
    hub.add("acme/old", {"config.json": b"{}", "pytorch_model.bin": b"p"})
    error = code_of(lambda: resolve_base("acme/old"))
    assert error.code == "INPUT_BASE_INCOMPLETE"
    assert "no safetensors" in error.message


def test_offline_base_is_told_honestly(hub, monkeypatch):
    hub.add("acme/it", {"config.json": b"{}", "model.safetensors": b"w"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = code_of(lambda: resolve_base("acme/it"))
    assert error.details["cause"] == "offline"
    assert hub.requests == []


def test_card_of_an_unknown_adapter_invents_nothing(tmp_path):
    folder = write_adapter(tmp_path / "a", record=False)
    text = make_card(
        AdapterInfo.read(folder), kind="adapter", repo_id="a/b", base=None, licence=licence_of(None, None)
    )
    assert "## Evaluation" not in text
    assert "## Loss" not in text
    assert "| r | 4 |" in text
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "peft"


def test_no_argument_reaches_the_network_unasked(hub, adapter):
    """Reading, planning and describing an adapter open no connection."""
    AdapterInfo.read(adapter).to_json()
    resolve_base(write_base(adapter.parent / "base"))
    assert hub.requests == []


def write_base(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w")
    return folder
