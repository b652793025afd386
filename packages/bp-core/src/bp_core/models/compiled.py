"""Decoder layers compiled one by one (torch.compile): they share their code, so that it is compiled once for all of them.

- Lengths are symbols: a row of another length needs no other kernel.
- A layer keeps its class, parameters and names; what checkpointing computes again is the compiled layer.
"""

from __future__ import annotations

import shutil
import sys

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


class CompiledLayers:
    """The decoder layers of a model, compiled.

    Args:
        model: a transformers model, with or without adapter.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]

    @staticmethod
    def missing(device: torch.device) -> str:
        """Why nothing can be compiled here; "" where it can."""
        if device.type == "cpu" and not any(
            map(shutil.which, ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++"))
        ):
            return "there is no C++ compiler"
        return ""

    def on(self) -> None:
        """Compile at the next call."""
        for layer in self.layers:
            layer.compile(dynamic=True)

    def off(self) -> None:
        """Compute as the model's own code does."""
        for layer in self.layers:
            layer._compiled_call_impl = None

    def release(self) -> None:
        """Leave nothing on the model."""
        self.off()
