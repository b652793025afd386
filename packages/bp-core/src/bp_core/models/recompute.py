"""What of a forward pass is computed again in the backward pass instead of kept (arXiv:1604.06174).

- `layers`: only the input of each decoder layer is kept; about a third more arithmetic, the least memory.
- `attention`: each layer's attention alone; its feed-forward part is kept.
- The model is set, not added to: what an earlier run in the same process asked for does not stay behind.
"""

from __future__ import annotations

import functools
from typing import Any

from bp_merge.common import BpError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

KEEP_INPUT = {
    "use_reentrant": False
}  # the reentrant kind needs inputs that have a gradient, which a base has not


def recompute(model: nn.Module, what: str) -> None:
    """Set what is computed again in training.

    Args:
        model: transformers model, with or without adapter.
        what: `layers`, `attention`, or `none`.

    Raises:
        BpError: `CONFIG_INVALID_SETTING` where the model has no part of that kind that can be set apart.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    _switch(base, on=what == "layers")
    for attention in attentions(base):
        attention.__dict__.pop("forward", None)
        if what == "attention":
            attention.forward = functools.partial(_again, attention.forward, attention)
    if what == "attention" and not attentions(base):
        raise BpError(
            "CONFIG_INVALID_SETTING",
            "no attention layer of this model can be told from the rest of it",
            "add --recompute layers to the command",
        )


def attentions(model: nn.Module) -> list[nn.Module]:
    """The attention layers of the decoder layers, in order."""
    return [
        child
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
        for name, child in layer.named_children()
        if ("attn" in name or "attention" in name) and any(isinstance(m, nn.Linear) for m in child.modules())
    ]


def _switch(base: Any, *, on: bool) -> None:
    # transformers 5.23 renamed the pair
    verb = "enable" if on else "disable"
    given = (KEEP_INPUT,) if on else ()
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        if switch := getattr(base, f"{name}_{verb}", None):
            try:
                switch(*given)
            except ValueError as error:  # an architecture that has no layers to set
                if on:
                    raise BpError(
                        "CONFIG_INVALID_SETTING", str(error), "add --no-gradient-checkpointing to the command"
                    ) from None
            return


def _again(forward: Any, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not module.training:
        return forward(*args, **kwargs)
    how: dict[str, Any] = {**kwargs, **KEEP_INPUT}
    return checkpoint(forward, *args, **how)
