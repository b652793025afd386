"""Failures of bp-export's public calls, bp-merge's among them, caught by `bp_export.BpError`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace as Simple

import bp_export
import numpy as np
import pytest
from adapters import write_adapter
from bp_export.errors import CODES
from fakes.fake_hub import READ, WRITE, fake_hub
from fakes.fake_hub import Fault as HubFault
from fakes.fake_ollama import Fault, fake_ollama
from huggingface_hub import constants
from provoked import provoke

# huggingface_hub's plain LFS upload (Xet is off here) passes its file in httpx's deprecated way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

HERE = Path(__file__).parent


def adapter(p, **fields):
    return write_adapter(p / "adapter", base_ref=str(p / "no-base"), **fields)


def text(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def export(p, **settings):
    return bp_export.export(adapter(p), **settings)


def based(p, **settings):
    """An export onto a base that is there as far as it goes: a configuration and a tokenizer."""
    text(p / "no-base" / "config.json", json.dumps(LLAMA))
    text(p / "no-base" / "tokenizer.json", "{}")
    text(p / "no-base" / "model.safetensors")
    export(p, format="lora", **settings)


def weights_cut(p):
    folder = adapter(p)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    bp_export.export(folder, format="lora", output=p / "out")


def configured(p, content):
    text(p / "a" / "adapter_model.safetensors")
    bp_export.AdapterInfo.read(text(p / "a" / "adapter_config.json", content).parent)


def recorded(p, content):
    folder = adapter(p)
    text(folder / "backprop.json", content)
    bp_export.AdapterInfo.read(folder)


def headed(p, data):
    """An export of an adapter whose weights file begins like this."""
    folder = adapter(p)
    (folder / "adapter_model.safetensors").write_bytes(data)
    bp_export.export(folder, format="lora", output=p / "out")


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def gguf(p, config=LLAMA, quantization="f16"):
    """A GGUF model of a checkpoint that holds nothing, with no tokenizer."""
    source = Simple(names=lambda: (), tensors={})
    bp_export.write_gguf(source, config, p / "no-tokenizer", p / "m.gguf", quantization)


def gguf_lora(p, config=LLAMA, name="model.layers.0.self_attn.q_proj", a=(4, 256), b=(256, 4), **more):
    """A GGUF LoRA file of one pair; `value` fills it."""
    value, fields = more.pop("value", 0.5), more.pop("fields", {})
    pair = Simple(a=np.full(a, value, np.float32), b=np.full(b, value, np.float32), scale=2.0, magnitude=None)
    made = Simple(modules={name: pair} if name else {}, config={"lora_alpha": 8, "r": 4, **fields})
    bp_export.write_gguf_lora(made, config, p / "l.gguf", **more)


def hub(p, call, *faults):
    """A call of the Hub while it answers like this."""
    with fake_hub() as running, pytest.MonkeyPatch.context() as m:
        m.setattr(constants, "HF_HUB_OFFLINE", False)
        m.setattr(constants, "HF_HUB_DISABLE_XET", True)
        m.setattr(constants, "HF_HUB_CACHE", str(p / "cache"))
        m.setattr(constants, "HF_TOKEN_PATH", str(p / "no-token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            m.delenv(name, raising=False)
        m.setenv("HF_ENDPOINT", running.url)
        running.add("alice/data", {"notes.txt": b"x"})
        running.faults = list(faults)
        call()


def push(p, *faults, **settings):
    hub(p, lambda: bp_export.push(adapter(p), "alice/tuned", **{"token": WRITE, **settings}), *faults)


def pull(p, name="alice/no", *faults, **settings):
    hub(p, lambda: bp_export.pull(name, p / "out", **settings), *faults)


def ollama(call, *faults, **state):
    """A call of a client while its server answers like this."""
    with (
        fake_ollama(faults=list(faults), **state) as server,
        bp_export.Ollama(server.url, timeout=2.0, slow=2.0, pause=0.01) as client,
    ):
        call(client)


def named(p, name):
    """Registering a file of that name, which is no GGUF file within."""
    return lambda client: bp_export.register(text(p / "m.gguf", "GGUF?"), name, client=client)


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
    # adapters and what Backprop wrote into them
    "a record of a newer version": (
        "INPUT_ADAPTER_INVALID",
        "schema_version 99",
        lambda p: recorded(p, '{"schema_version": 99}'),
    ),
    "a record that is no JSON": ("INPUT_ADAPTER_INVALID", "backprop.json", lambda p: recorded(p, "{")),
    "a record that is a list": ("INPUT_ADAPTER_INVALID", "backprop.json", lambda p: recorded(p, "[]")),
    "weights of nothing": ("INPUT_ADAPTER_INVALID", "", lambda p: headed(p, b"")),
    "weights with a header longer than the file": (
        "INPUT_ADAPTER_INVALID",
        "",
        lambda p: headed(p, (10**12).to_bytes(8, "little") + b"{}"),
    ),
    "weights with a header that is no JSON": (
        "INPUT_ADAPTER_INVALID",
        "",
        lambda p: headed(p, (2).to_bytes(8, "little") + b"{{"),
    ),
    # settings of an export
    "a format by no name": ("INPUT_VALIDATION_FAILED", "ggfu", lambda p: export(p, format="ggfu")),
    "a quantization by no name": (
        "INPUT_VALIDATION_FAILED",
        "q9",
        lambda p: export(p, format="gguf", quantization="q9"),
    ),
    "no thread": ("INPUT_VALIDATION_FAILED", "threads", lambda p: export(p, format="gguf", threads=0)),
    "a number type of a GGUF model": (
        "INPUT_VALIDATION_FAILED",
        "--dtype",
        lambda p: export(p, format="gguf", dtype="f16"),
    ),
    "an output that is the input": (
        "INPUT_VALIDATION_FAILED",
        "input",
        lambda p: based(p, output=p / "adapter"),
    ),
    "an output that is there": (
        "INPUT_OUTPUT_EXISTS",
        "exists",
        lambda p: based(p, output=text(p / "out" / "x").parent, overwrite=False),
    ),
    "two revisions": (
        "INPUT_VALIDATION_FAILED",
        "revision",
        lambda p: bp_export.resolve_base("a/b@one", "two"),
    ),
    # GGUF models and adapters
    "a number type that GGUF has not": (
        "INPUT_QUANTIZATION_UNKNOWN",
        "q9",
        lambda p: gguf(p, quantization="q9"),
    ),
    "an architecture by no name": (
        "INPUT_ARCHITECTURE_UNKNOWN",
        "NopeForCausalLM",
        lambda p: gguf(p, {"architectures": ["NopeForCausalLM"], "model_type": "nope"}),
    ),
    "a LoRA file of four bits": (
        "INPUT_QUANTIZATION_UNKNOWN",
        "q4_0",
        lambda p: gguf_lora(p, number_type="q4_0"),
    ),
    "a LoRA file of nothing": (
        "INPUT_ADAPTER_NOT_EXPRESSIBLE",
        "no LoRA module",
        lambda p: gguf_lora(p, name=""),
    ),
    "a module that the model has not": (
        "INPUT_TENSOR_UNKNOWN",
        "z_proj",
        lambda p: gguf_lora(p, name="model.layers.0.self_attn.z_proj"),
    ),
    "matrices of two ranks": ("INPUT_TENSOR_SHAPE", "", lambda p: gguf_lora(p, a=(3, 256))),
    "an adapter that is not finite": (
        "INPUT_TENSOR_NOT_FINITE",
        "",
        lambda p: gguf_lora(p, value=float("nan")),
    ),
    "a LoRA of an architecture by no name": (
        "INPUT_ARCHITECTURE_UNKNOWN",
        "nope",
        lambda p: gguf_lora(p, {"model_type": "nope"}),
    ),
    # the Hub
    "a token that is refused": (
        "HUB_AUTH_FAILED",
        "",
        lambda p: push(p, HubFault("/", 401, times=9)),
    ),
    "a token that may only read": ("HUB_FORBIDDEN", "", lambda p: push(p, token=READ)),
    "a commit that is forbidden": ("HUB_FORBIDDEN", "", lambda p: push(p, HubFault("/commit/", 403))),
    "a Hub that is down": (
        "HUB_UNAVAILABLE",
        "",
        lambda p: push(p, HubFault("/repos/create", 500, times=99)),
    ),
    "a repository that is not there": ("HUB_NOT_FOUND", "alice/no", lambda p: pull(p)),
    "a repository without a model": (
        "INPUT_ADAPTER_INVALID",
        "neither an adapter",
        lambda p: pull(p, "alice/data"),
    ),
    "a folder that is there": (
        "INPUT_OUTPUT_EXISTS",
        "exists",
        lambda p: pull(p, text(p / "out" / "x") and "alice/data", no_overwrite=True),
    ),
    "a base that the Hub has not": (
        "DEP_MODEL_LOAD_FAILED",
        "alice/no",
        lambda p: hub(p, lambda: bp_export.resolve_base("alice/no")),
    ),
    "a repository with one file too many": (
        "INPUT_REPO_ID_INVALID",
        "",
        lambda p: bp_export.pull("a/b/c", p / "out"),
    ),
    "nothing to push": (
        "INPUT_VALIDATION_FAILED",
        "",
        lambda p: bp_export.push(p / "no", "a/b", dry_run=True),
    ),
    "a token file of two lines": (
        "INPUT_TOKEN_FILE_INVALID",
        "",
        lambda p: bp_export.pull("a/b", p / "out", token_file=text(p / "t", "hf_one\nhf_two\n")),
    ),
    # Ollama
    "an address that is none": (
        "INPUT_VALIDATION_FAILED",
        "address",
        lambda p: bp_export.Ollama("http://[::1"),
    ),
    "a server that answers no JSON": (
        "OLLAMA_REQUEST_FAILED",
        "something else",
        lambda p: ollama(lambda c: c.require(), Fault("/api/version", "garbage")),
    ),
    "an old server": (
        "DEP_OLLAMA_TOO_OLD",
        "0.1.0",
        lambda p: ollama(named(p, "x"), version="0.1.0"),
    ),
    "a server that fails": (
        "OLLAMA_REQUEST_FAILED",
        "",
        lambda p: ollama(lambda c: c.models(), Fault("/api/tags", "status", times=9)),
    ),
    "a model that the server has not": (
        "OLLAMA_MODEL_NOT_FOUND",
        "nobody",
        lambda p: ollama(lambda c: c.show("nobody")),
    ),
    "a model to delete that is not there": (
        "OLLAMA_MODEL_NOT_FOUND",
        "nobody",
        lambda p: ollama(lambda c: c.delete("nobody")),
    ),
    "a model by no name": (
        "INPUT_MODEL_NAME_INVALID",
        "no valid",
        lambda p: ollama(named(p, "a b!")),
    ),
    "a file that is no GGUF file": ("INPUT_GGUF_INVALID", "GGUF", lambda p: ollama(named(p, "x"))),
    "a folder without a GGUF file": (
        "INPUT_VALIDATION_FAILED",
        "no GGUF file",
        lambda p: bp_export.register(text(p / "m" / "x").parent, client=None),
    ),
    "a Modelfile that breaks the grammar": (
        "INPUT_MODELFILE_INVALID",
        "Modelfile",
        lambda p: bp_export.register(
            text(p / "m.gguf", "GGUF?"), "x", client=None, modelfile=text(p / "Modelfile", "NOPE x")
        ),
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_one_class_catches_it_with_cause_and_hint(row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, cause, call = ROWS[row]
    provoke(bp_export.BpError, code, cause, lambda: call(tmp_path))


def test_there_are_more_than_forty():
    assert len(ROWS) > 40


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
