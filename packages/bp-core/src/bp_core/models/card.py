"""The sensor of the card that a run trains on: torch's card, found again among NVML's by its UUID."""

from __future__ import annotations

import torch

from bp_core.safety.sensors import Sensor, open_sensor


def card_of(device: torch.device) -> Sensor | None:
    """The sensor of the card that a run trains on; None on a CPU, or where nothing reads the card."""
    return open_sensor(cuda_uuid(device.index or 0)) if device.type == "cuda" else None


def cuda_uuid(index: int = 0) -> str | int:
    """The UUID of torch's CUDA card `index` as NVML writes it; the index itself where torch does not tell."""
    uuid = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    if not uuid:
        return index
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
