"""RMSNorm, rotary positions and gated feed-forward layers as the fused kernels of liger-kernel (arXiv:2410.10989).

- Layers keep their classes' parameters and names: a subclass computes their forward, as long as it is on.
- Which layer can be computed so is read off its shape: a norm with one weight and an epsilon, a feed-forward layer with
  gate, up and down projections; `bp_core.training.kernels` holds the figures against the model's own, so that a norm
  that means something else (Gemma adds 1 to its weight) is left out, not computed wrongly.
- liger-kernel writes into the inputs of some kernels; that is switched off wherever it can be.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
from torch import nn


def _norm(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    # offset 0, the cast of Llama's norm, the gradient not written over the input's
    return LigerRMSNormFunction.apply(hidden, self.weight, _epsilon(self), 0.0, "llama", False)


def _silu(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(hidden), self.up_proj(hidden)))


def _gelu(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    from liger_kernel.ops.geglu import LigerGELUMulFunction

    return self.down_proj(LigerGELUMulFunction.apply(self.gate_proj(hidden), self.up_proj(hidden)))


def _rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *_: Any, **__: Any
) -> Any:
    from liger_kernel.ops.rope import LigerRopeFunction

    return LigerRopeFunction.apply(q, k, cos, sin)


def _epsilon(module: nn.Module) -> float | None:
    found = [getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon")]
    return next((float(value) for value in found if isinstance(value, float)), None)


def _way_of(module: nn.Module) -> Any:
    """The fused forward of a layer, None where it is no layer of these kinds."""
    kind = type(module).__name__
    if kind.endswith("RMSNorm") and len(list(module.parameters())) == 1 and _epsilon(module) is not None:
        return _norm
    if kind.endswith("MLP") and all(hasattr(module, f"{n}_proj") for n in ("gate", "up", "down")):
        activation = type(getattr(module, "act_fn", None)).__name__
        return {"SiLUActivation": _silu, "SiLU": _silu, "GELUTanh": _gelu}.get(activation)
    return None


class FusedLayers:
    """The layers of a model that compute by fused kernels.

    Args:
        model: a transformers model, with or without adapter.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [(m, type(m), way) for m in model.modules() if (way := _way_of(m)) is not None]
        names = {type(m).__module__ for m in model.modules() if hasattr(m, "layer_idx")}
        found = {name: vars(sys.modules[name]).get("apply_rotary_pos_emb") for name in names}
        self.rotary = {name: own for name, own in found.items() if own is not None}

    @staticmethod
    def missing(device: torch.device) -> str:
        """Why the kernels cannot be used on a device; "" where they can."""
        if device.type != "cuda":
            return "liger-kernel computes on a CUDA card alone"
        return "" if importlib.util.find_spec("liger_kernel") else "liger-kernel is not installed"

    def on(self) -> None:
        """Compute by the fused kernels."""
        for module, kind, way in self.layers:
            module.__class__ = type(f"Fused{kind.__name__}", (kind,), {"forward": way})
        for name in self.rotary:
            sys.modules[name].apply_rotary_pos_emb = _rotary  # type: ignore[attr-defined]

    def off(self) -> None:
        """Compute as the model's own code does."""
        for module, kind, _ in self.layers:
            module.__class__ = kind
        for name, own in self.rotary.items():
            sys.modules[name].apply_rotary_pos_emb = own  # type: ignore[attr-defined]

    def release(self) -> None:
        """Leave nothing on the model."""
        self.off()
