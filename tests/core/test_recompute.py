"""What gradient checkpointing keeps: counted in the tensors that autograd holds."""

from __future__ import annotations

import pytest
import torch
from bp_core.models.recompute import attentions, recompute
from bp_core.tiny import path as tiny
from bp_merge.common import BpError
from saved import kept_bytes
from torch import nn
from transformers import AutoModelForCausalLM

IDS = torch.arange(2 * 96).reshape(2, 96)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny()).train()


def passed(model) -> tuple[int, float, list[torch.Tensor]]:
    model.zero_grad()
    kept, loss = kept_bytes(
        lambda: model(input_ids=IDS, labels=IDS, use_cache=False).loss, tuple(model.parameters())
    )
    loss.backward()
    return kept, loss.item(), [p.grad.clone() for p in model.parameters()]


def test_what_is_kept_for_the_backward_pass(model):
    seen = {}
    for what in ("none", "attention", "layers"):
        recompute(model, what)
        seen[what] = passed(model)
    assert seen["layers"][0] < seen["attention"][0] < seen["none"][0]
    for what in ("attention", "layers"):
        assert seen[what][1] == seen["none"][1]
        for mine, plain in zip(seen[what][2], seen["none"][2], strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-7)


def test_the_model_is_set_not_added_to(model):
    recompute(model, "none")
    plain = passed(model)[0]
    for what in ("attention", "attention", "layers", "attention"):
        recompute(model, what)
    recompute(model, "none")
    assert passed(model)[0] == plain
    assert not any("forward" in vars(a) for a in attentions(model))


def test_a_model_without_such_parts_is_refused():
    class Flat(nn.Module):
        def activation_checkpointing_enable(self, kwargs):
            raise ValueError("Flat does not support gradient checkpointing")

        def activation_checkpointing_disable(self):
            raise ValueError("Flat does not support gradient checkpointing")

    recompute(Flat(), "none")
    for what in ("layers", "attention"):
        with pytest.raises(BpError) as error:
            recompute(Flat(), what)
        assert error.value.code == "CONFIG_INVALID_SETTING"
