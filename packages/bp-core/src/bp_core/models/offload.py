"""The decoder layers of a model that is trained whole, held in main memory and brought to the card a layer at a time.

- A layer's weights are copied when it is passed, forward and backward; its activations are computed again, so that no copy
  outlives its pass. The copy is part of the graph: gradients arrive where the weights are, and the optimizer runs there.
- Embedding, output head and last norm stay on the card: the loss reads them a chunk at a time.
- What trains, saves and resumes sees ordinary parameters, some of them on another device. It is the plain step in plain
  order, so that the numbers are those of the same run without it; what it costs is the time of the copies.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def offload(model: Any, device: torch.device) -> None:
    """Leave the decoder layers of a model in main memory, put everything else on `device`; passes bring them there.

    Args:
        model: transformers causal LM, on the CPU.
        device: that computes.
    """
    layers = list(model.get_decoder().layers)
    held = {id(p) for layer in layers for p in layer.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in held:
            parameter.data = parameter.data.to(device)
        elif device.type == "cuda":
            parameter.data = parameter.data.pin_memory()  # copies of pinned memory run beside the arithmetic
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    for layer in layers:
        layer.forward = _Brought(layer, device)


class _Brought:
    """The forward pass of a layer whose weights are elsewhere."""

    def __init__(self, layer: nn.Module, device: torch.device) -> None:
        self.layer, self.device = copy.copy(layer), device  # shares its modules, has the plain forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            how: dict[str, Any] = {**kwargs, "use_reentrant": False}
            return checkpoint(self._passed, *args, **how)
        return self._passed(*args, **kwargs)

    def _passed(self, *args: Any, **kwargs: Any) -> Any:
        here = {name: p.to(self.device, non_blocking=True) for name, p in self.layer.named_parameters()}
        return functional_call(self.layer, here, args, kwargs)
