"""A LoRA linear layer as one function: y = x Wᵀ + b + s·(x Aᵀ) Bᵀ, with the input alone kept for the backward pass.

- PEFT's layer casts its input to the factors' fp32 and keeps that copy, once for each of the layers that read it. Here
  both products are taken in the compute dtype; the fp32 factors are cast once a forward pass of the model,
  all of them in one call: a fused optimizer leaves no mark on what it changed, so that nothing less is sure.
- x Aᵀ is r numbers a token: it is computed again in the backward pass, not kept.
- The layer stays PEFT's own, under another class: names, parameters, saving, merging, unloading are unchanged, and
  whatever is not the plain case at the moment of the call (adapter off, merged, another dtype) is PEFT's forward.
- DoRA and other variants, dropout, biases of an adapter, experts, embeddings, tied and 8-bit weights stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn


class _LoraLinear(torch.autograd.Function):
    """(x, A, B) → y. W and b are given as tensors, or, of a 4-bit layer, by the layer: `quantised`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,  # (…, in), compute dtype
        a: torch.Tensor,  # (r, in), master
        b: torch.Tensor,  # (out, r), master
        cast_a: torch.Tensor,  # (r, in), compute dtype
        cast_b: torch.Tensor,  # (out, r), compute dtype
        weight: torch.Tensor | None,  # (out, in), compute dtype
        bias: torch.Tensor | None,  # (out,)
        quantised: nn.Module | None,
        scale: float,
    ) -> torch.Tensor:
        base: Any = quantised or (lambda x: F.linear(x, weight, bias))  # type: ignore[arg-type]
        y = base(x).contiguous()  # (…, out)
        flat = y.view(-1, y.shape[-1])
        flat.addmm_(x.reshape(-1, x.shape[-1]) @ cast_a.T, cast_b.T, alpha=scale)
        ctx.save_for_backward(x, cast_a, cast_b, weight)
        ctx.quantised, ctx.scale, ctx.dtypes = quantised, scale, (a.dtype, b.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, a, b, weight = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        g = grad.reshape(-1, grad.shape[-1])  # (N, out)
        gb = (g @ b).mul_(ctx.scale)  # (N, r)
        grad_x = grad_a = grad_b = None
        if ctx.needs_input_grad[1]:
            grad_a = (gb.T @ rows).to(ctx.dtypes[0])
        if ctx.needs_input_grad[2]:
            grad_b = (g.T @ (rows @ a.T).mul_(ctx.scale)).to(ctx.dtypes[1])
        if ctx.needs_input_grad[0]:
            if ctx.quantised is not None:
                weight = _dequantised(ctx.quantised, g.dtype)
            grad_x = (g @ weight).addmm_(gb, a).view_as(x)
        return grad_x, grad_a, grad_b, None, None, None, None, None, None


def _quantised(base: nn.Module) -> bool:
    return type(base).__name__ == "Linear4bit" and type(base).__module__.startswith("bitsandbytes")


def _dequantised(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """W (out, in) of a 4-bit layer in `dtype`."""
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)


class _Fast:
    """Mixed into the class of a PEFT layer: the one function where the call is the plain case."""

    cast_a: torch.Tensor | None = None
    cast_b: torch.Tensor | None = None
    quantised = False

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """PEFT's layer's output."""
        layer: Any = self
        a, b = self.cast_a, self.cast_b
        if args or kwargs or a is None or b is None or layer.disable_adapters or layer.merged:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        base = layer.base_layer
        if x.dtype is not a.dtype or not (self.quantised or base.weight.dtype is x.dtype):
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]
        own, scale = (*_factors(layer), a, b), layer.scaling[layer.active_adapters[0]]
        if self.quantised:
            return _LoraLinear.apply(x, *own, None, None, base, scale)
        return _LoraLinear.apply(x, *own, base.weight, base.bias, None, scale)


_CLASSES: dict[type, type] = {}


class FastLora:
    """The layers of a model that compute by the one function, and their factors in the compute dtype.

    Args:
        model: a PEFT model with one active adapter.
        dtype: of the products: autocast's, or the base's own.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.layers = list(_plain_layers(model))
        self._masters: list[torch.Tensor] = []
        self._casts: list[torch.Tensor] = []
        self._seen: list[int] = []
        base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        self._decoder: nn.Module = base.get_decoder() or base
        self._hook: Any = None

    def on(self) -> None:
        """Compute by the one function."""
        for layer in self.layers:
            kind = _kind(layer)
            layer.__class__ = _CLASSES.setdefault(kind, type(f"Fast{kind.__name__}", (_Fast, kind), {}))
            layer.quantised = _quantised(layer.base_layer)
        self._hook = self._decoder.register_forward_pre_hook(lambda *_: self.refresh())
        self.refresh()

    def off(self) -> None:
        """Compute as PEFT does."""
        if self._hook is not None:
            self._hook.remove()
        for layer in self.layers:
            layer.__class__ = _kind(layer)
            for name in ("cast_a", "cast_b", "quantised"):
                vars(layer).pop(name, None)
        self._masters, self._casts, self._seen = [], [], []

    def release(self) -> None:
        """Leave the model as it was."""
        self.off()
        self.layers = []

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the factors as they are now."""
        seen = [w.data_ptr() for layer in self.layers for w in _factors(layer)]
        if seen != self._seen:
            self._point()
            self._seen = seen
        if self._casts:
            torch._foreach_copy_(self._casts, self._masters)

    def _point(self) -> None:
        self._masters, self._casts = [], []
        for layer in self.layers:
            own = _factors(layer)
            casts = [
                w.detach() if w.dtype is self.dtype else torch.empty_like(w, dtype=self.dtype) for w in own
            ]
            layer.cast_a, layer.cast_b = (c.detach() for c in casts)
            apart = [k for k in range(2) if own[k].dtype is not self.dtype]
            self._masters += [own[k] for k in apart]
            self._casts += [casts[k] for k in apart]


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) of the active adapter, fp32."""
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def _plain_layers(model: nn.Module) -> Iterator[Any]:
    """The LoRA layers that compute y = x Wᵀ + b + s·(x Aᵀ) Bᵀ and no more, over a frozen weight of their own."""
    shared: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        shared[id(parameter)] = shared.get(id(parameter), 0) + 1
    for layer in model.modules():
        base = getattr(layer, "base_layer", None)
        if not isinstance(layer, LoraLayer) or (type(base) is not nn.Linear and not _quantised(base)):  # type: ignore[arg-type]
            continue
        if _kind(layer) is not LoraLinear and _kind(layer).__name__ != "Linear4bit":
            continue
        any_layer: Any = layer
        names = any_layer.active_adapters
        if len(names) != 1 or names[0] not in any_layer.lora_A or any_layer.lora_variant.get(names[0]):
            continue
        a, b = any_layer.lora_A[names[0]], any_layer.lora_B[names[0]]
        plain = (
            type(a) is nn.Linear
            and type(b) is nn.Linear
            and a.bias is None
            and b.bias is None
            and isinstance(any_layer.lora_dropout[names[0]], nn.Identity)
            and not getattr(any_layer, "fan_in_fan_out", False)
            and not any(p.requires_grad for p in base.parameters())  # type: ignore[union-attr]
            and all(shared[id(p)] == 1 for p in base.parameters())  # type: ignore[union-attr]
        )
        if plain:
            yield layer


def _kind(layer: nn.Module) -> type:
    """The class that PEFT gave a layer."""
    return type(layer).__mro__[2] if type(layer) in _CLASSES.values() else type(layer)
