"""Rows with tool calls, to a model that calls: trained, asked in transformers, exported, asked in llama.cpp by its own Jinja."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from bp_core import Trainer
from bp_core.encoding.encode import Encoder
from bp_core.generation.load import Tuned
from bp_data.example import Turn

TOOL = {
    "type": "function",
    "function": {
        "name": "rain",
        "description": "Rain in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CITIES = ("Lima", "Oslo", "Rome")


def row(city: str) -> dict:
    return {
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": f"Rain in {city}?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "rain", "arguments": json.dumps({"city": city})},
                    }
                ],
            },
            {"role": "tool", "content": f"{city}: dry", "tool_call_id": "call_1"},
            {"role": "assistant", "content": f"{city} stays dry."},
        ],
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    data = folder / "calls.jsonl"
    data.write_text("".join(json.dumps(row(city)) + "\n" for city in CITIES), encoding="utf-8")
    trainer = Trainer("tiny", output=folder / "out", tell=lambda _: None)
    trainer.train(
        data,
        steps=50,
        learning_rate=1e-2,
        batch_size=3,
        gradient_accumulation=1,
        heldout_ratio=0.0,
        eval_steps=0,
        save_steps=0,
    )
    return trainer


def call_in(answer: str) -> dict:
    found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", answer, re.DOTALL)
    assert found, answer
    return json.loads(found[1])


def history(city: str) -> tuple[Turn, ...]:
    call = {"type": "function", "id": "call_1", "function": {"name": "rain", "arguments": {"city": city}}}
    return (
        Turn("user", f"Rain in {city}?"),
        Turn("assistant", "", tool_calls=(call,)),
        Turn("tool", f"{city}: dry", tool_call_id="call_1"),
    )


def test_the_saved_adapter_calls_and_answers_from_the_result(trained):
    tuned = Tuned.load(trained.result.adapter_path, backend="cpu")
    for city in CITIES:
        assert call_in(tuned.answer(f"Rain in {city}?", tools=(TOOL,))) == {
            "name": "rain",
            "arguments": {"city": city},
        }
        assert tuned.answer(history(city), tools=(TOOL,)) == f"{city} stays dry."


def test_the_exported_model_calls_in_llama_cpp(trained, tmp_path):
    xllamacpp = pytest.importorskip("xllamacpp")
    file = trained.export("gguf", quantization="f16", output=tmp_path / "calls.gguf").path
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.verbosity = 1024, 1, 0, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.ui = False
    params.use_jinja = True
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=300, trust_env=False) as client:
        for city in CITIES[:2]:
            asked = {"messages": [{"role": "user", "content": f"Rain in {city}?"}], "tools": [TOOL]}
            encoder: Encoder = trained._trained().encoder
            prompt = client.post("/apply-template", json=asked).raise_for_status().json()["prompt"]
            assert prompt == encoder.render((Turn("user", f"Rain in {city}?"),), (TOOL,), prompt=True)
            said = client.post("/v1/chat/completions", json={**asked, "temperature": 0, "max_tokens": 80})
            (call,) = said.raise_for_status().json()["choices"][0]["message"]["tool_calls"]
            assert call["function"]["name"] == "rain"
            assert json.loads(call["function"]["arguments"]) == {"city": city}
        told = {**asked, "messages": row(city)["messages"][:3]}
        said = client.post("/v1/chat/completions", json={**told, "temperature": 0, "max_tokens": 80})
        assert said.raise_for_status().json()["choices"][0]["message"]["content"] == f"{city} stays dry."
    del server
