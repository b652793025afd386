"""What PEFT and transformers compute is what we read, write, merge and bake: real tiny models, real files."""

from __future__ import annotations

import functools
import json

import numpy as np
import peft
import pytest
import torch
from bp_merge.adapter import Adapter
from bp_merge.bake import bake
from bp_merge.common import BpError
from bp_merge.engine import merge
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

IDS = torch.tensor([[1, 5, 9, 2, 33, 60, 7, 7]])
LAYER = "model.layers.1.self_attn.v_proj"


@functools.cache
def weights(kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=False,
            attention_bias=True,
        )
        model = LlamaForCausalLM(config)
    return config, model.state_dict()


def fresh(kind="llama"):
    config, state = weights(kind)
    model = (GPT2LMHeadModel if kind == "gpt2" else LlamaForCausalLM)(config)
    model.load_state_dict({n: t.clone() for n, t in state.items()})
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float().numpy()


def tune(folder, seed=1, kind="llama", dtype=None, scale=0.3, **settings):
    """Write an adapter folder with random factors, as PEFT writes it."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings}
    model = peft.get_peft_model(fresh(kind), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                noise = torch.randn(value.shape, generator=drawn) * scale
                value.copy_(value.abs() + 0.1 * noise.abs() if "magnitude" in name else value + noise)
    model.save_pretrained(folder)
    if dtype is not None:
        file = folder / "adapter_model.safetensors"
        save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file, {"format": "pt"})
    return folder


def with_adapter(folder, kind="llama"):
    return logits(peft.PeftModel.from_pretrained(fresh(kind), folder).eval())


def near(x, y, tolerance=2e-5):
    assert np.abs(x - y).max() <= tolerance * np.abs(y).max()


CASES = {
    "plain": {},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 6},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 16},
    },
    "rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 3}},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "norms saved": {"modules_to_save": ["norm"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "dora": {"use_dora": True},
    "token rows": {"trainable_token_indices": {"embed_tokens": [3, 9, 60]}},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "one layer": {"layers_to_transform": [1]},
    "a pattern of targets": {"target_modules": r".*layers\.0.*(q|down)_proj"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*embedding layers.*:UserWarning")
@pytest.mark.filterwarnings(
    "ignore:Adapter .* LoRA tensor.* have invalid shape"
)  # PEFT takes a bias of B for a torn matrix
def test_saved_again_and_baked_it_has_the_same_logits(tmp_path, case):
    folder = tune(tmp_path / "a", **CASES[case])
    want = with_adapter(folder)
    assert np.abs(want - logits(fresh())).max() > 1e-2  # the adapter matters
    loaded = Adapter.load(folder)
    loaded.save(tmp_path / "again")
    near(with_adapter(tmp_path / "again"), want)
    fresh().save_pretrained(tmp_path / "base")
    bake(tmp_path / "base", [loaded], tmp_path / "baked")
    near(logits(LlamaForCausalLM.from_pretrained(tmp_path / "baked").eval()), want)


def test_conv1d_of_gpt2(tmp_path):
    folder = tune(tmp_path / "a", kind="gpt2", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    want = with_adapter(folder, "gpt2")
    Adapter.load(folder).save(tmp_path / "again")
    near(with_adapter(tmp_path / "again", "gpt2"), want)
    fresh("gpt2").save_pretrained(tmp_path / "base")
    bake(tmp_path / "base", [Adapter.load(folder)], tmp_path / "baked")
    near(logits(GPT2LMHeadModel.from_pretrained(tmp_path / "baked").eval()), want)


def dense_logits(folders, factors):
    """The base with Σ wᵢΔWᵢ added by hand."""
    model = fresh()
    with torch.no_grad():
        for folder, factor in zip(folders, factors, strict=True):
            for name, m in Adapter.load(folder).modules.items():
                model.get_submodule(name).weight.add_(torch.from_numpy(factor * m.delta()).float())
    return logits(model)


@pytest.mark.parametrize("factors", [[0.5, 0.5, 0.5], [1.0, -1.0, 0.25]])
def test_a_merged_adapter_reloads_with_the_logits_of_the_dense_sum(tmp_path, factors):
    folders = [
        tune(tmp_path / "a"),
        tune(tmp_path / "b", seed=2, r=2, use_rslora=True, dtype=torch.bfloat16),
        tune(tmp_path / "c", seed=3, rank_pattern={"q_proj": 7}, alpha_pattern={"v_proj": 3}),
    ]
    adapters = [Adapter.load(f) for f in folders]
    merge(adapters, "linear", factors, output=tmp_path / "out")
    near(with_adapter(tmp_path / "out"), dense_logits(folders, factors))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["r"] == 13
    assert not config["use_rslora"]


def test_adapters_of_different_targets(tmp_path):
    folders = [tune(tmp_path / "a"), tune(tmp_path / "b", seed=2, target_modules=["v_proj", "up_proj"])]
    adapters = [Adapter.load(f) for f in folders]
    with pytest.raises(BpError, match="lacks 2 modules") as caught:
        merge(adapters, "linear")
    assert caught.value.code == "INPUT_ADAPTERS_MISMATCH"
    merge(adapters, "linear", [1, 1], missing="zero", output=tmp_path / "out")
    near(with_adapter(tmp_path / "out"), dense_logits(folders, [1, 1]))


@pytest.fixture
def peft_pair(tmp_path):
    folders = [tune(tmp_path / "a"), tune(tmp_path / "b", seed=2)]
    model = peft.PeftModel.from_pretrained(fresh(), folders[0], adapter_name="a")
    model.load_adapter(folders[1], adapter_name="b")
    return model, [Adapter.load(f) for f in folders]


@pytest.mark.parametrize(
    ("theirs", "ours", "factors", "more"),
    [
        ("svd", "svd", [0.7, 0.3], {}),
        ("ties_svd", "ties", [1.0, 1.0], {"density": 0.25}),
        ("magnitude_prune_svd", "magnitude_prune", [0.7, 0.3], {"density": 0.25}),
        ("dare_linear_svd", "dare_linear", [0.7, 0.3], {"density": 1.0}),
        ("dare_ties_svd", "dare_ties", [1.0, 1.0], {"density": 1.0}),
    ],
)
@pytest.mark.parametrize("rank", [3, 16])
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_agrees_with_peft_where_the_definitions_do(peft_pair, theirs, ours, factors, more, rank):
    """PEFT divides TIES' sum by the count and weighs after the election: the same for weights of 1."""
    model, adapters = peft_pair
    model.add_weighted_adapter(["a", "b"], factors, "m", combination_type=theirs, svd_rank=rank, **more)
    want = model.get_submodule(f"base_model.model.{LAYER}").get_delta_weight("m").detach().numpy()
    space = {} if ours == "svd" else {"space": "dense"}
    found = merge(adapters, ours, factors, rank=rank, **more, **space).adapter.modules[LAYER]
    near(found.delta(), want, 1e-4)


def test_what_peft_adds_up_by_factors_is_not_the_sum(peft_pair):
    """Its `linear` has cross terms Bᵢ·Aⱼ; ours has none."""
    model, adapters = peft_pair
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "m", combination_type="linear")
    theirs = model.get_submodule(f"base_model.model.{LAYER}").get_delta_weight("m").detach().numpy()
    dense = sum(0.5 * a.modules[LAYER].delta() for a in adapters)
    near(merge(adapters, "linear").adapter.modules[LAYER].delta(), dense, 1e-6)
    assert np.abs(theirs - dense).max() > 0.1 * np.abs(dense).max()


REFUSED = {
    "dora": ({"use_dora": True}, "DoRA"),
    "lora_bias": ({"lora_bias": True}, "bias of B"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "trained whole"),
    "token rows": ({"trainable_token_indices": {"embed_tokens": [3]}}, "trained whole"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore:Adapter .* LoRA tensor.* have invalid shape")
def test_what_has_no_sum_is_refused_and_nothing_is_written(tmp_path, case):
    settings, cause = REFUSED[case]
    adapters = [Adapter.load(tune(tmp_path / str(i), seed=i, **settings)) for i in (1, 2)]
    with pytest.raises(BpError, match=cause) as caught:
        merge(adapters, "linear", output=tmp_path / "out")
    assert caught.value.code == "INPUT_ADAPTER_UNSUPPORTED"
    assert "bp-merge" in caught.value.hint
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_whole_tensors_that_are_equal_go_along(tmp_path):
    one = tune(tmp_path / "a", modules_to_save=["lm_head"])
    merge([Adapter.load(one), Adapter.load(one)], "linear", output=tmp_path / "out")
    near(with_adapter(tmp_path / "out"), with_adapter(one))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_initialisations_that_changed_the_base_are_refused(tmp_path, init):
    folder = tune(tmp_path / "a")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": init}))
    with pytest.raises(BpError, match="changed the base") as caught:
        Adapter.load(folder)
    assert caught.value.code == "INPUT_ADAPTER_UNSUPPORTED"
