"""A faster way to compute is used where it agrees with the model, told where it does not, refused where it was asked for."""

from __future__ import annotations

import pytest
import torch
from bp_core import RunStore, Trainer
from bp_core.models.attention import best_attention, refuse_attention
from bp_core.models.device import Device
from bp_core.models.fast_lora import FastLora
from bp_core.tiny import path as tiny
from bp_core.training.kernels import disagreement
from bp_merge.common import BpError
from stones import quiet, stones
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BASE = {"preview": 0, "eval_steps": 0, "save_steps": 0, "batch_size": 2, "preflight": False}


def events(folder):
    store = RunStore(folder)
    return {e.code: e.message for e in store.events(store.list()[0].run_id)}


def train(folder, tell=quiet, **settings):
    return Trainer("tiny", output=folder, tell=tell, **{**BASE, **settings}).train(stones(8), steps=1)


class Wrong(FastLora):
    """Agrees with nothing: its factors are scaled."""

    def refresh(self):
        super().refresh()
        for layer in self.layers:
            layer.cast_b = layer.cast_b * 1.5


class Failing(FastLora):
    def refresh(self):
        raise RuntimeError("no kernel image is available")


def test_what_agrees_is_used_and_gone_after_the_run(tmp_path):
    trainer = Trainer("tiny", output=tmp_path, tell=quiet, **BASE)
    trainer.train(stones(8), steps=1)
    assert events(tmp_path)["KERNELS_ON"] == "fast_lora"
    assert not any(type(m).__name__.startswith("Fast") for m in trainer._last.model.modules())


@pytest.mark.parametrize(("kind", "why"), [(Wrong, "it gives a loss of"), (Failing, "no kernel image")])
def test_what_does_not_agree_is_left_out_and_told(tmp_path, monkeypatch, kind, why):
    plain = train(tmp_path / "plain", fast_lora=False)
    monkeypatch.setattr("bp_core.training.kernels.FastLora", kind)
    told = []
    result = train(tmp_path / "wrong", tell=told.append)
    assert why in events(tmp_path / "wrong")["KERNEL_OFF"]
    assert any("fast-lora is left out" in line for line in told)
    assert result.train_loss == plain.train_loss
    with pytest.raises(BpError) as error:
        train(tmp_path / "asked", fast_lora=True)
    assert error.value.code == "CONFIG_KERNEL_REFUSED"
    assert "--no-fast-lora" in error.value.hint


def test_what_is_not_there_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    with pytest.raises(BpError) as error:
        train(tmp_path, fused_layers=True)
    assert error.value.code == "CONFIG_KERNEL_REFUSED"
    assert "CUDA" in error.value.message
    train(tmp_path / "off", fused_layers=False)


def test_agreement_is_of_the_loss_and_of_every_gradient():
    g = {"a": torch.ones(4), "b": torch.zeros(4)}
    plain = (2.0, g)
    limits = (1e-3, 1e-2)
    assert disagreement(plain, lambda: (2.001, g), limits) == ""
    assert "loss" in disagreement(plain, lambda: (2.1, g), limits)
    assert "loss" in disagreement(plain, lambda: (float("nan"), g), limits)
    assert "a differs by 100.0%" in disagreement(plain, lambda: (2.0, {**g, "a": torch.zeros(4)}), limits)
    assert "b differs" in disagreement(plain, lambda: (2.0, {**g, "b": torch.ones(4)}), limits)
    assert "differs" in disagreement(plain, lambda: (2.0, {**g, "a": torch.full((4,), float("nan"))}), limits)
    assert "one way only" in disagreement(plain, lambda: (2.0, {"a": g["a"]}), limits)

    def failing():
        raise RuntimeError("no kernel image")

    assert "no kernel image" in disagreement(plain, failing, limits)


class Leaking(torch.autograd.Function):
    """The right values; a gradient that goes to every position before, whatever packed example it is of."""

    @staticmethod
    def forward(ctx, right, mixed):
        return right.clone()

    @staticmethod
    def backward(ctx, grad):
        return None, grad


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_packing_is_refused_where_attention_mixes_the_examples(tmp_path, monkeypatch, where):
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def mixing(module, q, k, v, mask, **kwargs):
        mixed, weights = sdpa(module, q, k, v, None, **{**kwargs, "is_causal": True})
        if where == "forward" or mask is None:
            return mixed, weights
        return Leaking.apply(sdpa(module, q, k, v, mask, **kwargs)[0].detach(), mixed), weights

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", mixing)
    with pytest.raises(BpError) as error:
        train(tmp_path, packing=True, fast_lora=False)
    assert error.value.code == "CONFIG_PACKING_UNSAFE"
    assert ("gradient" if where == "backward" else "loss") in error.value.message


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_of_a_card_is_refused_without_one(tmp_path, name):
    cpu = Device(torch.device("cpu"), torch.float32, None, "CPU")
    assert best_attention(tiny(), cpu) == "sdpa"
    refuse_attention("sdpa", tiny(), cpu)
    refuse_attention("auto", tiny(), cpu)
    with pytest.raises(BpError) as error:
        refuse_attention(name, tiny(), cpu)
    assert error.value.code == "CONFIG_KERNEL_REFUSED"
    assert "CPU" in error.value.message or "CUDA" in error.value.message
