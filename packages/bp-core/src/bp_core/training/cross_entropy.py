"""Cross-entropy of a language model without its logits.

- Only positions with a label reach the output head: hidden states (labels, d) are picked before it.
- `chunked`: logits exist for `chunk` positions at a time. The gradient is formed in the forward pass, chunk by chunk
  (softmax − one-hot, times the weight), so that nothing of size labels × vocabulary is ever kept. Same arithmetic as
  the full loss, in the same order within a row.
- On CUDA, where liger-kernel is installed, its fused kernel does the same.
- Losses that weigh whole sequences take the log-probability of each label instead (`chunked_log_probs`), with the
  logits of a chunk formed once more in the backward pass.
- The sum over labels is returned; the caller divides by the labels of the whole optimizer step, so that accumulation
  changes nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


class _HeadGradients:
    """Gradients of hidden states, weight and bias where they are needed, from those of the logits, chunk by chunk."""

    def __init__(
        self, needed: Sequence[bool], hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self._input, self._weight = hidden, weight
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        self.bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needed[2] else None

    @property
    def all(self) -> tuple[torch.Tensor | None, ...]:
        """Of hidden states, weight and bias."""
        return self.hidden, self.weight, self.bias

    def add(self, here: slice, grad: torch.Tensor) -> None:
        """Take the gradient of the logits (c, V) of the positions `here`, fp32."""
        if self.bias is not None:
            self.bias += grad.sum(0)
        h = self._input[here]
        grad = grad.to(h.dtype)
        if self.hidden is not None:
            torch.matmul(grad, self._weight.to(h.dtype), out=self.hidden[here])
        if self.weight is not None:
            self.weight += (grad.T @ h).float()


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (N, d)
        weight: torch.Tensor,  # (V, d)
        bias: torch.Tensor | None,  # (V,)
        targets: torch.Tensor,  # (N,)
        chunk: int,
        softcap: float | None,
    ) -> torch.Tensor:
        gradients = _HeadGradients(ctx.needs_input_grad, hidden, weight, bias)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            here = slice(start, start + chunk)
            t = targets[here]
            logits = _logits(hidden[here], weight, bias, softcap)  # (c, V)
            log_z = torch.logsumexp(logits, dim=-1)  # (c,)
            total += (log_z - logits.gather(1, t[:, None])[:, 0]).sum()
            if not any(ctx.needs_input_grad[:3]):
                del logits
                continue
            slope = None if softcap is None else 1 - (logits / softcap) ** 2
            grad = logits.sub_(log_z[:, None]).exp_()  # softmax, in place
            grad.scatter_add_(1, t[:, None], torch.full_like(t[:, None], -1, dtype=grad.dtype))
            if slope is not None:
                grad *= slope
            gradients.add(here, grad)
            del logits, grad  # else they live beside those of the next chunk
        ctx.save_for_backward(*(g if g is not None else torch.empty(0) for g in gradients.all))
        ctx.present = tuple(g is not None for g in gradients.all)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grad_outputs[0]
        grads = [
            g.mul_(scale.to(g.dtype)) if on else None
            for g, on in zip(ctx.saved_tensors, ctx.present, strict=True)
        ]
        hidden, weight, bias = grads
        return hidden, None if weight is None else weight.to(ctx.weight_dtype), bias, None, None, None


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk: int = 1024,
    softcap: float | None = None,
) -> torch.Tensor:
    """Summed cross-entropy of `softmax(softcap·tanh((hidden·weightᵀ + bias)/softcap))`, a chunk of positions at a time.

    Args:
        hidden: (N, d), fp32 or bf16/fp16; its gradient has its dtype.
        weight: (V, d) of the output head; gets a gradient only where it requires one.
        targets: int64 (N,) in [0, V).
        bias: (V,) of the output head.
        chunk: positions whose logits exist at a time; peak memory is about 2·chunk·V·4 bytes.
        softcap: logit cap of Gemma 2, or None.

    Returns:
        fp32 scalar, the sum over N. Zero where N is 0.

    Example:
        With V = 2, zero hidden states and one target, each of the two logits is 0 and the loss is ln 2 = 0.6931.
    """
    return _ChunkedCrossEntropy.apply(hidden, weight, bias, targets, max(1, chunk), softcap)  # type: ignore[return-value]


class _ChunkedLogProbs(torch.autograd.Function):
    """log p of each target; logits are formed a chunk at a time, once forward and once more backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (N, d)
        weight: torch.Tensor,  # (V, d)
        bias: torch.Tensor | None,  # (V,)
        targets: torch.Tensor,  # (N,)
        chunk: int,
        softcap: float | None,
    ) -> torch.Tensor:
        out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        for start in range(0, hidden.shape[0], chunk):
            here = slice(start, start + chunk)
            logits = _logits(hidden[here], weight, bias, softcap)  # (c, V)
            out[here] = logits.gather(1, targets[here, None])[:, 0] - torch.logsumexp(logits, dim=-1)
            del logits
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.chunk, ctx.softcap = chunk, softcap
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = grad_outputs  # (N,)
        hidden, weight, bias, targets = ctx.saved_tensors
        gradients = _HeadGradients(ctx.needs_input_grad, hidden, weight, bias)
        for start in range(0, hidden.shape[0], ctx.chunk):
            here = slice(start, start + ctx.chunk)
            logits = _logits(hidden[here], weight, bias, ctx.softcap)
            bend = None if ctx.softcap is None else 1 - (logits / ctx.softcap) ** 2
            grad = torch.softmax(logits, dim=-1).neg_()  # d log p / d logits = one-hot − softmax
            grad.scatter_add_(1, targets[here, None], torch.ones_like(targets[here, None], dtype=grad.dtype))
            grad *= slope[here, None]
            if bend is not None:
                grad *= bend
            gradients.add(here, grad)
            del logits, grad  # else they live beside those of the next chunk
        wide = gradients.weight
        return (
            gradients.hidden,
            None if wide is None else wide.to(weight.dtype),
            gradients.bias,
            None,
            None,
            None,
        )


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> torch.Tensor:
    """fp32 logits (c, V) of hidden states (c, d), capped where the model caps them."""
    logits = F.linear(
        hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
    ).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def chunked_log_probs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk: int = 1024,
    softcap: float | None = None,
) -> torch.Tensor:
    """The log-probability of each target, for losses that weigh whole sequences (DPO and its kin).

    What the gradient will be is known only when the loss of the sequences is, so that the logits of a chunk are formed
    again in the backward pass; nothing of size N × V is kept.

    Args:
        hidden: (N, d), fp32 or bf16/fp16; its gradient has its dtype.
        weight: (V, d) of the output head.
        targets: int64 (N,) in [0, V).
        bias: (V,) of the output head.
        chunk: positions whose logits exist at a time.
        softcap: logit cap of Gemma 2, or None.

    Returns:
        fp32 (N,), each ≤ 0.

    Example:
        With V = 2 and zero hidden states each entry is −ln 2 = −0.6931.
    """
    return _ChunkedLogProbs.apply(hidden, weight, bias, targets, max(1, chunk), softcap)  # type: ignore[return-value]


@torch.no_grad()
def chunked_judgement(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk: int = 1024,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of each target, and whether it is the most likely token; no gradient.

    Args:
        hidden: (N, d).
        weight: (V, d) of the output head.
        targets: int64 (N,) in [0, V).
        bias: (V,) of the output head.
        chunk: positions whose logits exist at a time.
        softcap: logit cap of Gemma 2, or None.

    Returns:
        fp32 (N,), each ≤ 0, and bool (N,).
    """
    out = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    right = torch.empty(hidden.shape[0], dtype=torch.bool, device=hidden.device)
    for start in range(0, hidden.shape[0], max(1, chunk)):
        here = slice(start, start + max(1, chunk))
        logits = _logits(hidden[here], weight, bias, softcap)  # (c, V)
        out[here] = logits.gather(1, targets[here, None])[:, 0] - torch.logsumexp(logits, dim=-1)
        right[here] = logits.argmax(dim=-1) == targets[here]
    return out, right


def full_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The same sum with all logits (N, V) formed at once: the plain definition, and the test oracle."""
    logits = _logits(hidden, weight, bias, softcap)
    return F.cross_entropy(logits, targets, reduction="sum")


def liger_available(device: torch.device) -> bool:
    """Whether the fused kernel of liger-kernel can run here."""
    return device.type == "cuda" and importlib.util.find_spec("liger_kernel") is not None


def liger_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None,
    softcap: float | None,
) -> torch.Tensor:
    """The same sum by liger-kernel's fused linear cross-entropy (CUDA)."""
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum", softcap=softcap)
    return loss(weight.to(hidden.dtype), hidden, targets, bias)
