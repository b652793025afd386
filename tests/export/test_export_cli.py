"""The commands as a user types them: streams, exit codes, JSON keys, secrets, and what is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bp_export
import pytest
from adapters import write_adapter
from bp_export.cli.main import cli, main
from bp_merge.common import run_command
from fakes.fake_ollama import fake_ollama
from test_export_ollama import write_gguf


@pytest.fixture
def base(tmp_path):
    from bp_export.adapter.base import resolve_base

    return Path(shutil.copytree(resolve_base("tiny").path, tmp_path / "tiny"))


@pytest.fixture
def adapter(tmp_path, base):
    width = json.loads((base / "config.json").read_text())["hidden_size"]
    return write_adapter(tmp_path / "law", base_ref=str(base), base_path=base, out=width, rows=width)


def run(capsys, *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_export_prints_one_json_object(capsys, adapter):
    code, out, err = run(capsys, "export", adapter, "--json")
    data = json.loads(out)
    assert code == 0
    assert data["schema_version"] == 1
    assert set(data) >= {
        "format", "path", "quantization", "size_bytes", "tensors", "verified",
        "token_ids_equal", "top1_agreement", "kl", "seconds", "peak_rss_mb", "unchecked",
    }  # fmt: skip
    assert data["kl"] is None
    assert "kl" in data["unchecked"]
    assert "writing" in err


def test_quiet_prints_the_path_alone(capsys, adapter):
    code, out, err = run(capsys, "export", adapter, "--quiet")
    assert (code, out, err) == (0, f"{adapter / 'lora'}\n", "")


def test_dry_run_tells_the_figures(capsys, adapter):
    code, out, _ = run(capsys, "export", adapter, "--dry-run")
    assert code == 0
    assert "would write" in out
    assert "disk:" in out
    assert not (adapter / "lora").exists()


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("export", "none"), 1, "[INPUT_ADAPTER_INVALID]"),
        (("export", "{adapter}", "--ollama"), 1, "--format gguf --ollama"),
        (("export", "{adapter}", "-f", "ollama-adapter"), 1, "--base-model"),
        (("export", "{adapter}", "--formt", "gguf"), 1, "--format"),
        (("export", "{adapter}", "--base-model", "./none"), 1, "[DEP_MODEL_LOAD_FAILED]"),
        (("export", "{adapter}", "--hub-token-file", "none"), 1, "[INPUT_TOKEN_FILE_INVALID]"),
        (
            ("export", "{adapter}", "--hub-token", "x", "--hub-token-file", "none"),
            1,
            "--hub-token-file alone",
        ),
        (("push", "{adapter}", "--repo", "bad name"), 1, "[INPUT_REPO_ID_INVALID]"),
        (("push", "{adapter}"), 1, "--repo"),
        (("ollama", "list", "--host", "127.0.0.1:9"), 69, "[DEP_OLLAMA_UNREACHABLE]"),
        (("ollama", "register", "none"), 1, "[INPUT_VALIDATION_FAILED]"),
    ],
)
def test_errors_are_coded_hinted_and_without_traceback(capsys, adapter, argv, code, told):
    got, out, err = run(capsys, *(a.format(adapter=adapter) for a in argv))
    assert got == code
    assert told in err
    assert "Traceback" not in err
    assert out == ""


def test_json_errors_go_to_stdout_as_one_object(capsys):
    code, out, err = run(capsys, "export", "none", "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "INPUT_ADAPTER_INVALID"
    assert "hint:" in err


def test_a_token_on_the_command_line_is_warned_of_and_hidden(capsys, adapter):
    code, out, err = run(
        capsys, "push", adapter, "--repo", "a/b", "--token", "hf_secretsecretsecret", "--dry-run"
    )
    assert code == 0
    assert "warning" in err
    assert "hf_secret" not in out + err
    code, out, err = run(capsys, "export", adapter, "--hub-token", "hf_secretsecretsecret", "--dry-run")
    assert code == 0
    assert "--hub-token-file" in err
    assert "hf_secret" not in out + err


def test_push_dry_run_lists_the_files(capsys, adapter):
    code, out, _ = run(capsys, "push", adapter, "--repo", "alice/x", "-n", "--json")
    data = json.loads(out)
    assert code == 0
    assert {"path": "adapter_model.safetensors"}.items() <= data["files"][3].items() or any(
        f["path"] == "adapter_model.safetensors" for f in data["files"]
    )
    assert data["dry_run"] is True


def test_the_ollama_verbs(capsys, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "m.gguf")
    with fake_ollama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removeprefix("http://"))
        assert run(capsys, "ollama", "register", file, "--name", "my-model", "-q")[:2] == (
            0,
            "my-model:latest\n",
        )
        code, out, _ = run(capsys, "ollama", "register", file, "--name", "my-model", "--no-overwrite")
        assert (code, out) == (1, "")
        code, out, _ = run(capsys, "ollama", "list")
        assert "my-model:latest" in out
        assert (
            json.loads(run(capsys, "ollama", "list", "--json")[1])["models"][0]["name"] == "my-model:latest"
        )
        assert "TEMPLATE" in run(capsys, "ollama", "show", "my-model")[1]
        assert run(capsys, "ollama", "ps")[1] == "no model is loaded\n"
        assert run(capsys, "ollama", "shelf", "my-model")[1] == "no adapters on my-model\n"
        assert run(capsys, "ollama", "rm", "my-model")[0] == 0
        assert run(capsys, "ollama", "rm", "my-model")[0] == 1


def test_verify_checks_any_file(capsys, tmp_path):
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF" + b"\x00" * 10)
    code, _, err = run(capsys, "export", file, "--verify")
    assert code != 0
    assert "INPUT_GGUF_INVALID" in err
    code, _, err = run(capsys, "export", file)
    assert (code, "--verify" in err) == (1, True)


@pytest.fixture
def square(tmp_path):
    """A base whose q_proj is 256x256, and an adapter of it."""
    from tiny_models import build

    base = build("llama3", tmp_path / "llama")
    adapter = write_adapter(tmp_path / "square", base_ref=str(base), base_path=base, scale=0.1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, adapter / name)
    return base, adapter


def test_verify_checks_an_adapter_file_on_its_base(capsys, tmp_path, square):
    base, adapter = square
    code, out, _ = run(capsys, "export", adapter, "-f", "gguf-lora", "--quiet")
    lora = out.strip()
    assert code == 0
    run(capsys, "export", base, "-f", "gguf", "--quantization", "f32", "-o", tmp_path / "f32.gguf", "--quiet")
    data = json.loads(run(capsys, "export", lora, "--verify", "--json")[1])
    assert (data["verified"], data["format"], data["runtime"]) == (True, "gguf-lora", None)
    assert "name a base GGUF file" in data["unchecked"]["kl"]
    code, out, _ = run(capsys, "export", lora, "--verify", "--base-model", tmp_path / "f32.gguf")
    assert (code, "llama.cpp: applies it to the base" in out) == (0, True)
    code, _, err = run(capsys, "export", lora, "--verify", "--base-model", base)
    assert (code, "is no GGUF file" in err) == (1, True)


def test_an_adapter_file_that_is_not_the_bases_is_named(tmp_path, square):
    from bp_export.formats.job import export
    from bp_export.gguf.lora import write_gguf_lora
    from bp_export.verify.gguf_lora import verify_lora
    from bp_merge.adapter import Adapter
    from tiny_models import build

    base, adapter = square
    lora = export(adapter, format="gguf-lora").path
    other = export(build("qwen3", tmp_path / "qwen"), format="gguf", quantization="f32").path
    problems = verify_lora(lora, other).problems
    assert any("the base is qwen3" in p for p in problems), problems
    same = export(base, format="gguf", quantization="f32", output=tmp_path / "same.gguf").path
    loaded = Adapter.load(adapter)
    config = json.loads((base / "config.json").read_text())
    far = {**config, "num_hidden_layers": 99}
    modules = {"model.layers.77.self_attn.q_proj": next(iter(loaded.modules.values()))}
    write_gguf_lora(SimpleNamespace(modules=modules, config=loaded.config), far, tmp_path / "far.gguf")
    problems = verify_lora(tmp_path / "far.gguf", same).problems
    assert problems == ("the base has no blk.77.attn_q.weight",)


def test_a_token_on_the_command_line_reaches_the_hub(capsys, adapter, monkeypatch):
    from fakes.fake_hub import READ, fake_hub
    from huggingface_hub import constants

    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(adapter / "cache"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("acme/base", {"config.json": b"{}"}, private=True)
        argv = ("export", adapter, "-f", "merged", "--base-model", "acme/base", "--dry-run")
        code, _, err = run(capsys, *argv)
        assert (code, "[DEP_MODEL_LOAD_FAILED]" in err) == (1, True)
        code, _, with_token = run(capsys, *argv, "--hub-token", READ)
        assert code == 1
        assert with_token.splitlines()[-1] != err.splitlines()[-1], "the repository is seen now"


def test_commands_are_where_they_are_mounted():
    from bp_export.cli import ollama as cli_ollama

    assert set(cli.commands) == {"export", "ollama", "push", "pull"}
    assert set(cli_ollama.ollama_group.commands) == {"register", "list", "ps", "show", "rm", "shelf"}
    assert run_command(cli_ollama.register_command, ["--help"]) == 0


_IMPORTS = """
import sys
import bp_export, bp_export.cli.main, bp_export.adapter.base, bp_export.adapter.directory, bp_export.formats.job, bp_export.sharing.push, bp_export.sharing.pull
import bp_export.ollama.register, bp_export.adapter.card, bp_export.formats.readback, bp_export.formats.merged, bp_export.ollama.template
heavy = {"torch", "transformers", "peft", "huggingface_hub", "jinja2", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
sockets = []
sys.addaudithook(lambda name, args: sockets.append(args) if name == "socket.connect" else None)
from bp_export.cli.main import main
assert main(["export", sys.argv[1], "--json"]) == 0
assert main(["push", sys.argv[1], "--repo", "a/b", "--dry-run"]) == 0
assert main(["export", sys.argv[1], "-f", "merged", "--dry-run"]) == 0
assert not sockets, sockets
assert not {"torch", "transformers", "peft"} & set(sys.modules)
"""


def test_nothing_heavy_is_imported_and_no_socket_opened(adapter):
    done = subprocess.run([sys.executable, "-c", _IMPORTS, str(adapter)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names():
    assert bp_export.__all__ == sorted(bp_export.__all__)
    for name in bp_export.__all__:
        assert getattr(bp_export, name) is not None
    stub = (Path(bp_export.__file__).with_suffix(".pyi")).read_text()
    assert {line.rsplit(" ", 1)[1] for line in stub.splitlines()} == set(bp_export.__all__)
    assert callable(bp_export.export)


def test_every_code_that_is_raised_is_documented():
    import re

    from bp_export.errors import CODES
    from bp_merge import errors as merge

    known = set(CODES) | set(getattr(merge, "CODES", {}))
    pattern = re.compile(r'"((?:INPUT|CONFIG|DEP|RUNTIME|STATE|HUB|OLLAMA)_[A-Z_]+)"')
    named = {
        code
        for file in Path(bp_export.__file__).parent.rglob("*.py")
        for code in pattern.findall(file.read_text("utf-8"))
    } - {"OLLAMA_HOST", "OLLAMA_API_KEY"}
    assert named <= known, named - known


def test_q_is_the_quantization_of_an_export(capsys, square):
    _, adapter = square
    code, out, _ = run(capsys, "export", adapter, "-f", "gguf", "-q", "q8_0", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["quantization"] == "q8_0"


def test_an_export_lies_where_its_run_never_writes(capsys, tmp_path, base):
    root = tmp_path / "out" / "run-1"
    made = write_adapter(root / "adapter", base_ref=str(base), base_path=base)
    (root / "manifest.json").write_text("{}")
    code, out, _ = run(capsys, "export", made, "--dry-run", "--json")
    assert code == 0
    assert Path(json.loads(out)["path"]).parent == root / "exports"
    step = write_adapter(root / "checkpoints" / "step-00000002", base_ref=str(base), base_path=base)
    (step / "manifest.json").write_text("{}")
    code, out, _ = run(capsys, "export", step, "--dry-run", "--json")
    assert Path(json.loads(out)["path"]) == root / "exports" / "checkpoints" / "step-00000002" / "lora"


def test_a_dry_run_names_the_ollama_step_and_finds_a_dead_server(capsys, square):
    _, adapter = square
    argv = ("export", adapter, "-f", "gguf", "--ollama", "--ollama-name", "law", "--dry-run")
    code, _, err = run(capsys, *argv, "--ollama-host", "127.0.0.1:9")
    assert code == 69
    assert "DEP_OLLAMA_UNREACHABLE" in err
    with fake_ollama() as server:
        code, out, _ = run(capsys, *argv, "--ollama-host", server.url)
    assert code == 0
    assert "register with Ollama" in out
    assert "law" in out


@pytest.mark.parametrize(
    "argv", [("export",), ("push",), ("pull",), ("ollama",), ("ollama", "register")], ids=" ".join
)
def test_no_help_shows_a_formatting_mark(capsys, argv):
    code, out, _ = run(capsys, *argv, "--help")
    assert code == 0
    assert "\\b" not in out
    assert "\b" not in out


def test_numbers_of_an_export_have_bounds(capsys, adapter):
    for flag, value in (("--reserve-disk-gb", "inf"), ("--reserve-disk-gb", "1e30"), ("--threads", "9" * 20)):
        code, _, err = run(capsys, "export", adapter, flag, value, "--dry-run")
        assert code == 1, (flag, err)
