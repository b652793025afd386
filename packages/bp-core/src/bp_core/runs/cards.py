"""Which card a job will use, by the name that its lease has, told without loading torch.

- As `models.device` chooses: the first card that CUDA_VISIBLE_DEVICES shows, `cpu` where there is none. Where a
  launcher started a process a card, the first process names the cards of all.
- A number is CUDA's own count. CUDA counts the fastest card first and NVML by slot: with cards of several kinds in one
  machine set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that numbers and UUIDs name the same card.
"""

from __future__ import annotations

import os
from typing import Any

from bp_core.support.launch import launch

CPU = "cpu"


def cards_of(backend: str = "auto", *, nvml: Any = None) -> tuple[str, ...]:
    """The card of each process of this machine that a launcher started for one training; each once."""
    return tuple(dict.fromkeys(card_name(backend, i, nvml=nvml) for i in range(launch().here)))


def card_name(backend: str = "auto", index: int = 0, *, nvml: Any = None) -> str:
    """`cuda-N`, `cuda-UUID` for a slice of a card (MIG), or `cpu`.

    Args:
        backend: the setting of that name.
        index: of the card among those that CUDA shows.
        nvml: the module to use instead of `pynvml`.
    """
    if backend in (CPU, "mps", "mlx") or _cpu_build():
        return CPU
    if nvml is None:
        import pynvml as nvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return f"cuda-{index}" if backend == "cuda" else CPU  # a driver without NVML, or no driver
    try:
        if not nvml.nvmlDeviceGetCount():
            return CPU
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        if shown is None:
            return f"cuda-{index}"
        first = (shown.split(",") + [""] * index)[index].strip()
        if first.isdecimal():
            return f"cuda-{int(first)}"
        if first.startswith("GPU-"):
            return f"cuda-{nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(first))}"
        return f"cuda-{first}" if first.startswith("MIG-") else CPU
    except nvml.NVMLError:
        return CPU  # a UUID that no card has: CUDA shows none then
    finally:
        nvml.nvmlShutdown()


def _cpu_build() -> bool:
    """Whether the torch that is installed says in its version that it cannot use a card."""
    import importlib.metadata  # a tenth of what a refusal costs, and no refusal asks for a card

    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return True
