"""Snippets that users of Backpropagate have, with only the import and the model changed."""

from __future__ import annotations

import json

import pytest
from bp_core import RunStore, Trainer, register_with_ollama
from bp_core.quickstart import facts
from fakes.fake_hub import WRITE, fake_hub
from fakes.fake_ollama import fake_ollama
from huggingface_hub import constants

# huggingface_hub's plain LFS upload passes its file in httpx's deprecated way
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("snippets")
    rows = [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in facts.trained()
    ]
    (made / "my_data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def trained(folder):
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    trainer = Trainer("tiny")
    trainer.train("my_data.jsonl", steps=3)
    yield trainer
    patch.undo()


def test_the_default_model():
    assert Trainer().settings.model.model == "Qwen/Qwen2.5-7B-Instruct"


def test_train(folder, trained):
    result = trained.train("my_data.jsonl", steps=2, samples=40)
    assert result.steps == 2
    assert RunStore(folder / "output").get(result.run_id).status == "completed"


def test_save(folder, trained):
    saved = trained.save("./my-model")
    assert (saved / "adapter_model.safetensors").is_file()
    assert (
        json.loads((saved / "backprop.json").read_text(encoding="utf-8"))["run_id"] == trained.result.run_id
    )


def test_export(trained):
    result = trained.export("gguf", quantization="q4_k_m")
    assert result.path.is_file()
    assert result.run_id == trained.result.run_id


def test_a_verified_export_is_compared_with_the_trained_model(trained):
    result = trained.export("gguf", quantization="f16", verify=True)
    assert result.verified
    assert result.top1_agreement > 0.99
    assert result.kl < 1e-3
    assert "file itself" not in result.reference


def test_register_with_ollama(trained, monkeypatch):
    with fake_ollama() as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        result = trained.export("gguf", quantization="q8_0")
        register_with_ollama(result.path, "my-finetuned-model")
        made = trained.register_with_ollama("another", quantization="q8_0")
        assert made.run_id == trained.result.run_id
        assert {name.split(":")[0] for name in server.models} == {"my-finetuned-model", "another"}


def test_push_to_hub(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    with fake_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pushed = trained.push_to_hub("alice/my-finetuned-model", private=True)
        assert pushed.run_id == trained.result.run_id
        assert "adapter_model.safetensors" in hub.repos["alice/my-finetuned-model"].files("main")
