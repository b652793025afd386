"""Which attention kernel a run uses: the fastest that the card, the number format and the model's code all have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from bp_merge.common import BpError
from transformers import AutoConfig

from bp_core.models.device import Device
from bp_core.models.language import auto_class

# kernel → module that brings it, lowest compute capability, what a model's class says of itself
FLASH = {
    "flash_attention_3": ("flash_attn_interface", (9, 0), "_supports_flash_attn"),
    "flash_attention_2": ("flash_attn", (8, 0), "_supports_flash_attn"),
}
VARLEN = tuple(FLASH)  # take packed rows by the bounds of their pieces


def best_attention(folder: Path, device: Device) -> str:
    """The kernel that `auto` means: flash attention where all is there for it, else torch's own (`sdpa`)."""
    return next((name for name in FLASH if not missing_attention(name, folder, device)), "sdpa")


def refuse_attention(name: str, folder: Path, device: Device) -> None:
    """Refuse a kernel that was asked for and cannot be had.

    Raises:
        BpError: `CONFIG_KERNEL_REFUSED`.
    """
    if why := missing_attention(name, folder, device):
        raise BpError(
            "CONFIG_KERNEL_REFUSED",
            f"{name} cannot be used: {why}",
            "add --attn-implementation auto to the command",
        )


def missing_attention(name: str, folder: Path, device: Device) -> str:
    """What a kernel lacks here; "" where it lacks nothing."""
    cuda = device.device.type == "cuda"
    if name == "flex_attention" and not cuda:
        return "flex attention has no backward pass on the CPU"
    if name not in FLASH:
        return ""
    module, capability, flag = FLASH[name]
    if not cuda:
        return "flash attention computes on a CUDA card alone"
    if importlib.util.find_spec(module) is None:
        return f"the package {module} is not installed"
    has = torch.cuda.get_device_capability(device.device)
    # the kernels of version 3 are built for one generation of cards
    if has < capability or (name == "flash_attention_3" and has[0] != capability[0]):
        return f"{device.name} is not of the generation that it was made for"
    if device.weights is torch.float32:
        return "it takes no float32"
    config = AutoConfig.from_pretrained(folder)
    model = auto_class(config)._model_mapping.get(type(config), None)
    return "" if getattr(model, flag, False) else f"models of type {config.model_type} cannot"
