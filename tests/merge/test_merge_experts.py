"""Adapters on the fused parameters of a mixture of experts: read, baked, merged and inspected as PEFT computes them."""

from __future__ import annotations

import json

import bp_merge
import numpy as np
import peft
import pytest
import torch
import transformers
from bp_merge.adapter import Adapter
from bp_merge.bake import bake
from bp_merge.common import BpError
from safetensors.torch import load_file, save_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
    # PEFT looks for patterns among modules only, and applies them to parameters all the same
    pytest.mark.filterwarnings("ignore:.*did not match any targeted module.*:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:.*rank_pattern.*use_rslora.*:UserWarning"),
]
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 40,
    "num_experts_per_tok": 2,
    "num_local_experts": 3,
    "pad_token_id": 0,
}
KINDS = {"qwen3moe": ("Qwen3MoeConfig", {"moe_intermediate_size": 16}), "mixtral": ("MixtralConfig", {})}
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
WAYS = {
    "all-linear": {"target_modules": "all-linear"},
    "both": {"target_modules": ["q_proj"], "target_parameters": BOTH},
    "up": {"target_modules": [], "target_parameters": BOTH[:1], "use_rslora": True},
    "down and router": {"target_modules": ["q_proj"], "target_parameters": ["down_proj", "gate.weight"]},
    "ranks": {
        "target_modules": ["q_proj"],
        "target_parameters": BOTH,
        "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {"experts.gate_up_proj": 5},
    },
}


def model(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory):
    kind, fields = KINDS[request.param]
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**SIZES, **fields))
    made.save_pretrained(folder := tmp_path_factory.mktemp("moe") / request.param)
    return folder


def adapter(base, into, seed=1, **fields):
    fields = {"r": 2, "lora_alpha": 6, **fields}
    adapted = peft.get_peft_model(model(base), peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in (p for p in adapted.parameters() if p.requires_grad):
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.2)
    adapted.save_pretrained(into)
    return into


def weights(found):
    return {n: p.detach().numpy() for n, p in found.named_parameters()}


def near(folder, wanted):
    found = weights(model(folder))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.abs(found[name] - values).max() <= 1e-6 * np.abs(values).max(), name


@pytest.mark.parametrize("way", WAYS)
def test_a_baked_model_has_the_weights_that_peft_merges(base, tmp_path, way):
    path = adapter(base, tmp_path / "a", **WAYS[way])
    merged = peft.PeftModel.from_pretrained(model(base), path).merge_and_unload()
    wanted = weights(merged)
    changed = {n for n, v in weights(model(base)).items() if not np.array_equal(v, wanted[n])}
    assert any("experts" in n for n in changed)
    bake(base, [Adapter.load(path)], tmp_path / "baked")
    near(tmp_path / "baked", wanted)


def test_the_sum_of_two_is_baked_and_merged(base, tmp_path):
    paths = [adapter(base, tmp_path / f"a{i}", i, **WAYS["both"]) for i in (1, 2)]
    first, second = (
        weights(peft.PeftModel.from_pretrained(model(base), p).merge_and_unload()) for p in paths
    )
    plain = weights(model(base))
    wanted = {n: 0.5 * (first[n] + second[n]) for n in plain}
    loaded = [Adapter.load(p) for p in paths]
    bake(base, [(a, 0.5) for a in loaded], tmp_path / "summed")
    near(tmp_path / "summed", wanted)
    merged = bp_merge.merge(loaded, "task_arithmetic", [0.5, 0.5]).adapter
    bake(base, [merged], tmp_path / "merged")
    near(tmp_path / "merged", wanted)


def test_a_merged_adapter_is_not_written_and_the_way_out_is_named(base, tmp_path):
    loaded = Adapter.load(adapter(base, tmp_path / "a", **WAYS["both"]))
    for run in (
        lambda: bp_merge.merge([loaded, loaded], output=tmp_path / "out"),
        lambda: bp_merge.plan_merge([loaded, loaded], output=tmp_path / "out"),
        lambda: loaded.save(tmp_path / "out"),
    ):
        with pytest.raises(BpError, match="mixture of experts") as caught:
            run()
        assert caught.value.code == "INPUT_ADAPTER_UNSUPPORTED"
        assert "bp-merge bake" in caught.value.hint
        assert not (tmp_path / "out").exists()


def test_inspect_lists_each_expert(base, tmp_path):
    found = bp_merge.inspect(adapter(base, tmp_path / "a", **WAYS["both"]))
    rows = {r["name"]: r for r in found["modules"]}
    one = rows["model.layers.1.mlp.experts.2.up_proj"]
    assert (one["shape"], one["rank"], one["scale"]) == ([16, 24], 2, 3.0)
    assert len(rows) == 2 * (3 * 3 + 1)


def _edited(path, change=lambda t: t, **fields):
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    tensors = change(load_file(path / "adapter_model.safetensors"))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize(
    ("fields", "change", "code", "why"),
    [
        ({"r": 5, "rank_pattern": {"q_proj": 2}}, None, "INPUT_ADAPTER_INVALID", "no multiple of the rank 5"),
        ({"rank_pattern": {"down_proj": 1}}, None, "INPUT_ADAPTER_INVALID", "number of experts"),
        ({"target_parameters": BOTH[:1]}, None, "INPUT_ADAPTER_INVALID", "2 pairs of factors"),
        ({"target_parameters": "mlp.experts"}, None, "INPUT_ADAPTER_INVALID", "list of texts"),
        (
            {},
            lambda t: {k: v for k, v in t.items() if "experts.lora_B" not in k},
            "INPUT_ADAPTER_INVALID",
            "not the two factors",
        ),
        ({"target_parameters": ["gate.weight"]}, None, "INPUT_ADAPTER_INVALID", "has rank"),
    ],
)
def test_factors_that_contradict_the_configuration_are_refused(base, tmp_path, fields, change, code, why):
    path = _edited(adapter(base, tmp_path / "a", **WAYS["both"]), change or (lambda t: t), **fields)
    with pytest.raises(BpError, match=why) as caught:
        Adapter.load(path)
    assert caught.value.code == code


def test_another_number_of_experts_is_another_base(base, tmp_path):
    """r and α that are both thrice what they were: a third of the experts, which all exist."""
    path = adapter(base, tmp_path / "a", **WAYS["both"])
    _edited(path, r=6, lora_alpha=18, rank_pattern={"q_proj": 2})
    with pytest.raises(BpError, match="more experts") as caught:
        bake(base, [Adapter.load(path)], tmp_path / "baked")
    assert caught.value.code == "INPUT_WRONG_BASE"
    assert not (tmp_path / "baked").exists()


def test_a_base_with_all_experts_in_one_tensor_is_refused_by_name(base, tmp_path):
    path = adapter(base, tmp_path / "a", **WAYS["both"])
    (tmp_path / "fused").mkdir()
    save_file(
        {n: p.detach().clone() for n, p in model(base).named_parameters()},
        tmp_path / "fused" / "model.safetensors",
    )
    (tmp_path / "fused" / "config.json").write_text((base / "config.json").read_text())
    with pytest.raises(BpError, match="experts in one tensor") as caught:
        bake(tmp_path / "fused", [Adapter.load(path)], tmp_path / "baked")
    assert caught.value.code == "INPUT_ADAPTER_UNSUPPORTED"
