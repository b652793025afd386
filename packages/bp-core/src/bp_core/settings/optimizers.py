"""The optimizers that transformers knows by name: which are taken, what each needs, and why the others are not. No torch.

- Taken is one whose state is tensors, numbers and text, which a checkpoint holds and restores bit for bit, and that moves
  the weights in its own step alone: a gradient is whole, checked and clipped before.
"""

from __future__ import annotations

import importlib.util

BITSANDBYTES = "bitsandbytes"
TAKEN = {  # name → package that it needs beside torch and transformers
    "adamw_torch": "",
    "adamw_torch_fused": "",
    "adamw_8bit": BITSANDBYTES,
    "adamw_bnb_8bit": BITSANDBYTES,
    "paged_adamw_8bit": BITSANDBYTES,
    "paged_adamw_32bit": BITSANDBYTES,
    "sgd": "",
    "adafactor": "",
    "adagrad": "",
    "rmsprop": "",
    "lion_8bit": BITSANDBYTES,
    "lion_32bit": BITSANDBYTES,
    "paged_lion_8bit": BITSANDBYTES,
    "paged_lion_32bit": BITSANDBYTES,
    "ademamix": BITSANDBYTES,
    "ademamix_8bit": BITSANDBYTES,
    "paged_ademamix_8bit": BITSANDBYTES,
    "paged_ademamix_32bit": BITSANDBYTES,
    "rmsprop_bnb": BITSANDBYTES,
    "rmsprop_bnb_8bit": BITSANDBYTES,
    "rmsprop_bnb_32bit": BITSANDBYTES,
    "stable_adamw": "optimi",
}
PUBLISHED_AS = {"optimi": "torch-optimi"}  # where a package is installed under another name
_INSIDE = (
    "it moves weights within the backward pass, before the gradient of the step is whole, checked and clipped"
)
_OBJECTS = "it keeps projections as objects, which a checkpoint without pickle does not hold"
_DEVICE = "it is of a kind of device that this version does not train on"
_FREE = "it keeps two sets of weights, and evaluations and checkpoints would see the wrong one"
REFUSED = {
    "lomo": _INSIDE,
    "adalomo": _INSIDE,
    "galore_adamw_layerwise": _INSIDE,
    "galore_adamw_8bit_layerwise": _INSIDE,
    "galore_adafactor_layerwise": _INSIDE,
    "apollo_adamw_layerwise": _INSIDE,
    "galore_adamw": _OBJECTS,
    "galore_adamw_8bit": _OBJECTS,
    "galore_adafactor": _OBJECTS,
    "apollo_adamw": _OBJECTS,
    "adamw_torch_4bit": "its state is in number formats of torchao, which a checkpoint in safetensors does not hold",
    "adamw_torch_8bit": "its state is in number formats of torchao, which a checkpoint in safetensors does not hold",
    "grokadamw": "it keeps its state among its parameter groups, keyed by the weights, which a checkpoint does not hold",
    "schedule_free_radam": _FREE,
    "schedule_free_adamw": _FREE,
    "schedule_free_sgd": _FREE,
    "adamw_torch_xla": _DEVICE,
    "adamw_torch_npu_fused": _DEVICE,
    "adamw_anyprecision": "it needs torchdistx, which is not published any more",
}
SMALL = 24e9  # bytes of a card on which an adapter's optimizer is kept small too


def default_optimizer(mode: str, device: str, memory: float, *, offload: bool = False) -> str:
    """The optimizer that `auto` stands for.

    Args:
        mode: `lora` or `full`.
        device: `cuda` or `cpu`.
        memory: bytes of the card.
        offload: whether layers and their state are in main memory.

    Returns:
        Paged 8-bit AdamW where the whole model is trained on a card, and on small cards, where bitsandbytes is installed;
        else fused AdamW. Of a model of 4 billion parameters the state is 8 GB then, not 32.
    """
    if not offload and device == "cuda" and (mode == "full" or memory < SMALL) and installed(BITSANDBYTES):
        return "paged_adamw_8bit"
    return "adamw_torch_fused"


def installed(package: str) -> bool:
    """Whether a package that an optimizer needs can be imported; "" always can."""
    return not package or importlib.util.find_spec(package) is not None
