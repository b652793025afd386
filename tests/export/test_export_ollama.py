"""Ollama over real HTTP: what is sent, what is kept, and every way in which it can go wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import pytest
from bp_export.ollama.client import Ollama, version_tuple
from bp_export.ollama.names import adapter_name, base_url, parse_name, sanitize
from bp_export.ollama.register import register, shelf
from bp_merge.common import BpError
from fakes.fake_ollama import Fault, fake_ollama
from test_export_templates import CHATML


def write_gguf(path: Path, *, template: str | None = CHATML, adapter: bool = False) -> Path:
    """A GGUF header with a vocabulary and a chat template; no weights."""
    writer = gguf.GGUFWriter(path, "llama")
    if adapter:
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 8.0)
    else:
        writer.add_string("general.type", "model")
        writer.add_string("tokenizer.ggml.model", "gpt2")
        writer.add_array("tokenizer.ggml.tokens", ["a", "b", "<|im_start|>", "<|im_end|>"])
        writer.add_uint32("tokenizer.ggml.eos_token_id", 3)
        if template:
            writer.add_string("tokenizer.chat_template", template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


@pytest.fixture
def server():
    with fake_ollama() as running:
        yield running


@pytest.fixture
def client(server):
    with Ollama(server.url, timeout=2.0, slow=2.0, pause=0.01) as c:
        yield c


@pytest.fixture
def model(tmp_path):
    return write_gguf(tmp_path / "My Model (v2).gguf")


def code_of(call) -> BpError:
    with pytest.raises(BpError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:99", "http://box:99"),
        (":8080", "http://127.0.0.1:8080"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("[::1]:11434", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("[::]:8", "http://[::1]:8"),
        ("http://box:8/prefix/", "http://box:8/prefix"),
        ("box:notaport", "http://box:11434"),
        (' "box" ', "http://box:11434"),
        ("box:99999", "http://box:11434"),
    ],
)
def test_ollama_host_forms(host, url):
    assert base_url(host) == url


def test_names():
    assert parse_name("Llama3.2").short == "Llama3.2:latest"
    assert parse_name("me/x:1").short == "me/x:1"
    assert parse_name("reg.io:5000/me/x").host == "reg.io:5000"
    assert parse_name("A:B").key == parse_name("a:b").key
    assert sanitize("..Ünï model!") == "n-model"
    assert adapter_name("llama3.2:1b", "law").short == "llama3.2:1b-law"
    for bad in ("", "a b", "-x", "a/b/c/d", "x:", "n.s/x", "x" * 81):
        assert code_of(lambda bad=bad: parse_name(bad)).code == "INPUT_MODEL_NAME_INVALID"
    assert version_tuple("0.33.0-rc2") > version_tuple("0.5.11") > version_tuple("0.5.4")


def test_register_sends_everything_once_and_checks_it(server, client, model):
    lines: list[str] = []
    out = model.parent / "Modelfile"
    result = register(model, client=client, system="Be brief.", write_to=out, progress=lines.append)
    assert result.name == "my-model-v2:latest"
    assert (result.template, result.server, result.smoke) == ("derived", "0.33.0", "Hello there.")
    digest = f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert server.blobs == {digest: model.read_bytes()}
    [sent] = server.creates
    assert sent["files"] == {"My-Model--v2-.gguf": digest}
    assert sent["system"] == "Be brief."
    assert sent["parameters"]["stop"] == ["<|im_start|>", "<|im_end|>"]
    assert "<|im_start|>assistant" in sent["template"]
    assert "success" in lines
    assert out.read_text().startswith("FROM ./My Model (v2).gguf\nTEMPLATE ")
    register(model, "again", client=client)
    assert [r for r in server.requests if r[0] == "POST" and "/blobs/" in r[1]] == [
        ("POST", f"/api/blobs/{digest}")
    ]


def test_own_modelfile_wins(server, client, model, tmp_path):
    own = tmp_path / "Own"
    own.write_text(
        'FROM ./placeholder\nTEMPLATE """{{ .Prompt }}!"""\nPARAMETER temperature 0.2\nPARAMETER stop "x"\n'
    )
    result = register(model, "m", client=client, modelfile=own)
    assert result.template == "modelfile"
    assert server.creates[0]["template"] == "{{ .Prompt }}!"
    assert server.creates[0]["parameters"] == {"stop": ["x"], "temperature": 0.2}


@pytest.mark.parametrize("contents", [None, b"\xff\xfe", b"TEMPLATE"])
def test_a_modelfile_that_cannot_be_used_is_told_before_anything_is_sent(
    server, client, model, tmp_path, contents
):
    if contents is not None:
        (tmp_path / "Own").write_bytes(contents)
    error = code_of(lambda: register(model, "m", client=client, modelfile=tmp_path / "Own"))
    assert error.code == "INPUT_MODELFILE_INVALID"
    assert error.hint
    assert server.requests == []


def test_adapters_and_the_shelf(server, client, tmp_path):
    server.add("llama3.2:latest")
    server.add("llama3.2:1b")
    adapter = write_gguf(tmp_path / "law.gguf", adapter=True)
    result = register(adapter, "llama3.2:law", client=client, base="llama3.2", keys={})
    assert result.template == "base"
    assert server.creates[0]["from"] == "llama3.2:latest"
    assert "template" not in server.creates[0]
    register(adapter, "elsewhere", client=client, base="llama3.2", keys={}, smoke=False)
    register(adapter, "llama3.2:1b-law", client=client, base="llama3.2:1b", keys={}, smoke=False)
    assert [m["name"] for m in shelf(client, "llama3.2")] == ["elsewhere:latest", "llama3.2:law"]
    assert [m["name"] for m in shelf(client, "llama3.2:1b")] == ["llama3.2:1b-law"]
    error = code_of(lambda: register(adapter, "x", client=client))
    assert (error.code, "--base-model" in error.hint) == ("INPUT_VALIDATION_FAILED", True)
    error = code_of(lambda: register(adapter, "x", client=client, base="absent", keys={}))
    assert (error.code, error.hint) == ("OLLAMA_MODEL_NOT_FOUND", "ollama pull absent")


def test_adapter_on_a_base_file(server, client, tmp_path, model):
    adapter = write_gguf(tmp_path / "law.gguf", adapter=True)
    register(adapter, "law", client=client, base=str(model), keys={}, smoke=False)
    assert set(server.creates[0]) >= {"files", "adapters"}
    assert "from" not in server.creates[0]


def test_collisions(server, client, model):
    server.add("Taken:latest")
    error = code_of(lambda: register(model, "taken", client=client, no_overwrite=True))
    assert (error.code, error.exit_code) == ("OLLAMA_MODEL_EXISTS", 1)
    assert "backprop ollama rm Taken:latest" in error.hint
    assert server.creates == []
    assert register(model, "taken", client=client).notes == ("replaces Taken:latest",)


def test_down_and_too_old_and_stranger(server, client, model):
    with Ollama("http://127.0.0.1:9", timeout=1.0) as nobody:
        error = code_of(lambda: register(model, "m", client=nobody))
    assert (error.code, error.exit_code, error.retryable) == ("DEP_OLLAMA_UNREACHABLE", 69, True)
    assert "ollama serve" in error.hint
    server.version = "0.5.4"
    assert code_of(lambda: register(model, "m", client=client)).code == "DEP_OLLAMA_TOO_OLD"
    server.faults = [Fault("/api/version", "garbage")]
    assert code_of(client.version).code == "OLLAMA_REQUEST_FAILED"
    assert server.creates == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (
            Fault("/api/create", "error_line", text="template: unclosed action"),
            "DEP_OLLAMA_REGISTRATION_FAILED",
        ),
        (
            Fault("/api/create", "status", status=400, text="invalid model name"),
            "DEP_OLLAMA_REGISTRATION_FAILED",
        ),
        (Fault("/api/create", "error_line", text="write /x: no space left on device"), "OLLAMA_DISK_FULL"),
        (
            Fault("/api/blobs", "status", text="write: no space left on device", method="POST"),
            "OLLAMA_DISK_FULL",
        ),
        (
            Fault("/api/create", "error_line", text="unknown model architecture: 'qwen35'"),
            "DEP_OLLAMA_TOO_OLD",
        ),
        (Fault("/api/create", "no_success"), "OLLAMA_REQUEST_FAILED"),
        (Fault("/api/create", "no_success", text="cut"), "OLLAMA_REQUEST_FAILED"),
        (Fault("/api/create", "break"), "OLLAMA_REQUEST_FAILED"),
        (Fault("/api/blobs", "corrupt", method="POST"), "OLLAMA_BLOB_REJECTED"),
        (Fault("/api/blobs", "status", status=500, times=9, method="POST"), "OLLAMA_REQUEST_FAILED"),
        (Fault("/api/blobs", "break", times=9, method="POST"), "OLLAMA_REQUEST_FAILED"),
        (Fault("/api/chat", "status", text="llama runner terminated"), "OLLAMA_SMOKE_FAILED"),
        (Fault("/api/tags", "status", status=500, times=9), "OLLAMA_REQUEST_FAILED"),
    ],
)
def test_faults_are_coded_and_retries_bounded(server, client, model, fault, code):
    server.faults = [fault]
    error = code_of(lambda: register(model, "m", client=client))
    assert error.code == code
    assert error.hint
    assert error.exit_code == 69
    assert len([r for r in server.requests if r[1].startswith(fault.path)]) <= 6


@pytest.mark.parametrize("kind", ["break", "status"])
def test_one_bad_moment_loses_nothing(server, client, model, kind):
    server.faults = [Fault("/api/blobs", kind, times=2, method="POST"), Fault("/api/tags", kind, times=1)]
    register(model, "m", client=client)
    assert list(server.blobs.values()) == [model.read_bytes()]
    assert "m:latest" in server.models


def test_slow_server_times_out_with_a_code(server, model):
    server.faults = [Fault("/api/create", "slow", seconds=0.6)]
    with Ollama(server.url, timeout=2.0, slow=0.2, pause=0.01) as impatient:
        error = code_of(lambda: register(model, "m", client=impatient))
    assert (error.code, error.retryable) == ("OLLAMA_REQUEST_FAILED", True)
    assert "took too long" in error.message


def test_a_lost_template_is_an_error(server, client, model):
    server.drops_template = True
    assert code_of(lambda: register(model, "m", client=client)).code == "OLLAMA_TEMPLATE_LOST"


def test_a_template_beyond_a_frame_needs_a_newer_server(server, client, tmp_path):
    odd = "{% for m in messages %}{{ loop.index ~ m['content'] ~ '<|im_end|>' }}{% endfor %}"
    file = write_gguf(tmp_path / "odd.gguf", template=odd)
    result = register(file, "m", client=client)
    assert (result.template, result.stop) == ("native", ("<|im_end|>",))
    server.version = "0.9.0"
    assert code_of(lambda: register(file, "m2", client=client)).code == "DEP_OLLAMA_TOO_OLD"


def test_a_base_model_says_so(client, tmp_path):
    result = register(write_gguf(tmp_path / "base.gguf", template=None), "b", client=client)
    assert result.template is None
    assert "no chat template" in result.notes[0]


def test_reads_and_removal(server, client):
    server.add("a:latest", running=True)
    server.add("b:1", template="x")
    assert [m["name"] for m in client.models()] == ["a:latest", "b:1"]
    assert [m["name"] for m in client.running()] == ["a:latest"]
    assert client.show("B:1")["template"] == "x"
    client.delete("A")
    assert list(server.models) == ["b:1"]
    error = code_of(lambda: client.delete("a"))
    assert (error.code, error.hint) == ("OLLAMA_MODEL_NOT_FOUND", "backprop ollama list")


def test_messages_hide_secrets(server, model):
    server.faults = [Fault("/api/create", "error_line", text="bad token=hf_abcdefghijklmnopqrst")]
    with Ollama(server.url.replace("//", "//me:verysecret@"), pause=0.01) as c:
        error = code_of(lambda: register(model, "m", client=c))
    told = json.dumps(error.to_dict())
    assert "hf_abc" not in told
    assert "verysecret" not in told


def test_not_a_gguf(client, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nope")
    assert code_of(lambda: register(tmp_path / "x.gguf", client=client)).code == "INPUT_VALIDATION_FAILED"
    assert code_of(lambda: register(tmp_path / "none", client=client)).code == "INPUT_VALIDATION_FAILED"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert code_of(lambda: register(empty, client=client)).code == "INPUT_VALIDATION_FAILED"
