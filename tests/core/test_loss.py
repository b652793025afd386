"""The chunked loss is the plain one: same sum, same gradients, with caps, biases and every chunk size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from bp_core.training.cross_entropy import chunked_cross_entropy, full_cross_entropy


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_loss_and_gradients_equal_the_full_ones(chunk, bias, softcap):
    torch.manual_seed(0)
    leaves = [torch.randn(65, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)]
    if bias:
        leaves.append(torch.randn(50, requires_grad=True))
    targets = torch.randint(0, 50, (65,))
    grads = []
    for function, extra in ((full_cross_entropy, {}), (chunked_cross_entropy, {"chunk": chunk})):
        for leaf in leaves:
            leaf.grad = None
        loss = function(
            leaves[0], leaves[1], targets, bias=leaves[2] if bias else None, softcap=softcap, **extra
        )
        (loss / 65).backward()
        grads.append([loss.detach() / 65, *[leaf.grad.clone() for leaf in leaves]])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_a_frozen_head_gets_no_gradient_and_costs_none():
    hidden, weight = torch.randn(9, 4, requires_grad=True), torch.randn(6, 4)
    chunked_cross_entropy(hidden, weight, torch.zeros(9, dtype=torch.long), chunk=4).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_no_labels_no_loss():
    loss = chunked_cross_entropy(torch.zeros(0, 4), torch.randn(6, 4), torch.zeros(0, dtype=torch.long))
    assert loss.item() == 0


def test_the_definition():
    loss = chunked_cross_entropy(torch.zeros(1, 3), torch.randn(2, 3), torch.tensor([1]))
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)
    hidden, weight, targets = torch.randn(5, 3), torch.randn(7, 3), torch.tensor([0, 1, 2, 3, 6])
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets, chunk=2), expected)
