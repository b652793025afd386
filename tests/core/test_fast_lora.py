"""The LoRA layer as one function gives PEFT's loss and gradients, keeps less, and leaves PEFT's layer as it is."""

from __future__ import annotations

import pytest
import torch
from bp_core.models.fast_lora import FastLora
from bp_core.tiny import path as tiny
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from saved import kept_bytes
from transformers import AutoModelForCausalLM

IDS = torch.arange(3, 3 + 4 * 48).reshape(4, 48)


def adapted(dtype=torch.float32, base=None, **config):
    torch.manual_seed(0)
    base = base or AutoModelForCausalLM.from_pretrained(tiny(), dtype=dtype)
    given = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(base, LoraConfig(**given)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at first, which would leave A without a gradient
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def passed(model, autocast=None):
    model.zero_grad()
    torch.manual_seed(1)
    own = tuple(model.parameters())
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        kept, loss = kept_bytes(lambda: model(input_ids=IDS, labels=IDS, use_cache=False).loss, own)
    loss.backward()
    return kept, loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(one, other):
    assert one.keys() == other.keys()
    return max(float((one[n] - g).norm() / g.norm()) for n, g in other.items())


def put_on(model, dtype):
    fast = FastLora(model, dtype)
    fast.on()
    return fast


def apart(one, other):
    """Of the gradient as one vector."""
    size = sum(float(g.norm()) ** 2 for g in other.values())
    return (sum(float((one[n] - g).norm()) ** 2 for n, g in other.items()) / size) ** 0.5


@pytest.mark.parametrize("rslora", [False, True])
def test_loss_and_gradients_are_pefts(rslora):
    model = adapted(use_rslora=rslora)
    kept, loss, gradients = passed(model)
    fast = put_on(model, torch.float32)
    assert len(fast.layers) == 28
    kept_fast, loss_fast, gradients_fast = passed(model)
    assert loss_fast == pytest.approx(loss, rel=1e-6)
    assert apart(gradients_fast, gradients) < 1e-6
    assert worst(gradients_fast, gradients) < 5e-6
    assert kept_fast < kept
    fast.release()
    again = passed(model)
    assert again[1] == loss
    assert all(torch.equal(again[2][n], g) for n, g in gradients.items())


def test_in_bf16_the_copies_of_the_inputs_are_gone():
    model = adapted(torch.bfloat16)
    kept, loss, gradients = passed(model, torch.bfloat16)
    fast = put_on(model, torch.bfloat16)
    kept_fast, loss_fast, gradients_fast = passed(model, torch.bfloat16)
    assert loss_fast == pytest.approx(loss, rel=3e-3)
    assert worst(gradients_fast, gradients) < 0.08
    # of each of 28 layers at least x Aᵀ, r numbers of 2 bytes for 192 tokens; of q, k, v and gate, up a cast of x as well
    assert kept - kept_fast > 28 * 8 * 192 * 2
    assert all(g.dtype is torch.float32 for n, g in gradients_fast.items())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)  # as an optimizer does, in place
    moved = passed(model, torch.bfloat16)[1]
    fast.release()
    assert moved == pytest.approx(passed(model, torch.bfloat16)[1], rel=3e-3)
    assert moved != loss_fast


def test_on_a_4_bit_base():
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    base = AutoModelForCausalLM.from_pretrained(tiny(), quantization_config=config, dtype=torch.float32)
    model = adapted(base=base)
    _, loss, gradients = passed(model)
    fast = put_on(model, torch.float32)
    assert len(fast.layers) == 28
    _, loss_fast, gradients_fast = passed(model)
    assert loss_fast == pytest.approx(loss, rel=1e-6)
    assert worst(gradients_fast, gradients) < 1e-5
    fast.release()


@pytest.mark.parametrize(
    ("config", "fast"),
    [
        ({"use_dora": True}, 0),
        ({"lora_dropout": 0.1}, 0),
        ({"target_modules": ["q_proj", "lm_head"]}, 4),  # tiny's head is its embedding
        ({"target_modules": ["v_proj", "embed_tokens"]}, 4),
        ({"bias": "lora_only", "target_modules": ["q_proj"]}, 4),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*tied.*:UserWarning")
def test_what_is_more_than_the_plain_layer_stays_pefts(config, fast):
    model = adapted(**config)
    before = passed(model)
    layers = put_on(model, torch.float32)
    assert len(layers.layers) == fast
    after = passed(model)
    assert after[1] == pytest.approx(before[1], rel=1e-6)
    assert worst(after[2], before[2]) < 5e-6
    layers.release()


def test_adapters_of_experts_stay_pefts():
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = adapted(
        base=Qwen3MoeForCausalLM(config),
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.down_proj"],
    )
    layers = put_on(model, torch.float32)
    assert len(layers.layers) == 2
    layers.release()


def test_it_is_pefts_adapter_still():
    model = adapted()
    state = {n: t.clone() for n, t in get_peft_model_state_dict(model).items()}
    kinds = [type(m) for m in model.modules()]
    fast = put_on(model, torch.float32)
    with torch.no_grad():
        on = model(input_ids=IDS).logits
        with model.disable_adapter():
            bare = model(input_ids=IDS).logits
        model.merge_adapter()
        merged = model(input_ids=IDS).logits
        model.unmerge_adapter()
    mine = get_peft_model_state_dict(model)
    assert mine.keys() == state.keys()
    assert all(torch.equal(mine[n], t) for n, t in state.items())
    fast.release()
    assert [type(m) for m in model.modules()] == kinds
    with torch.no_grad():
        torch.testing.assert_close(on, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged, on, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(bare, model.unload()(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)


def test_factors_that_are_replaced_are_seen():
    model = adapted()
    fast = put_on(model, torch.float32)
    before = passed(model)[1]
    for layer in fast.layers:
        weight = layer.lora_B["default"].weight
        weight.data = weight.data * 3  # another storage, and no new version
    after = passed(model)[1]
    fast.release()
    assert after == pytest.approx(passed(model)[1], rel=1e-6)
    assert after != before
