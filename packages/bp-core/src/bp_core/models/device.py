"""Where a run computes and in which number formats, by settings and what is there."""

from __future__ import annotations

import dataclasses

import torch
from bp_merge.common import BpError

from bp_core.models.backend import refuse_backend, refuse_on_cpu
from bp_core.settings.knobs import Settings
from bp_core.support.launch import launch


@dataclasses.dataclass(frozen=True)
class Device:
    """Where and how numbers are computed.

    Args:
        device: torch device.
        weights: dtype in which the base model's weights are held; fp32 where they are trained.
        autocast: dtype of matrix products, None for the weights' own.
        name: as people call it.
    """

    device: torch.device
    weights: torch.dtype
    autocast: torch.dtype | None
    name: str

    @property
    def fp16(self) -> bool:
        """Whether the loss must be scaled."""
        return self.autocast is torch.float16

    @property
    def memory(self) -> int:
        """Bytes of the card; 0 for a CPU."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.device.type == "cuda" else 0


def choose_device(settings: Settings) -> Device:
    """The device that a run uses, by settings and what is there.

    Raises:
        BpError: `DEP_GPU_NOT_AVAILABLE` for `--backend cuda` or `mps` without a card, or more processes on this machine than
            cards; `DEP_MLX_UNAVAILABLE` for `mlx`,
            `DEP_FP8_UNAVAILABLE` for `--fp8`: asked for and not possible here.
    """
    model = settings.model
    refuse_backend(settings)
    cuda = torch.cuda.is_available()
    if model.backend == "cuda" and not cuda:
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            "no CUDA card can be used",
            "leave --backend cuda out to train on the CPU, or install a CUDA build of torch",
        )
    if model.backend == "mlx":
        return _by_mlx(settings)
    if model.backend == "mps":
        if not torch.backends.mps.is_available():
            raise BpError(
                "DEP_GPU_NOT_AVAILABLE",
                "no GPU of Apple's can be used through torch",
                "leave --backend mps out to train on the CPU",
            )
        refuse_on_cpu(settings)
        dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
        return _device(settings, torch.device("mps"), dtype, "Apple GPU")
    if model.backend == "cpu" or not cuda:
        refuse_on_cpu(settings)
        dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
        return _device(settings, torch.device("cpu"), dtype, "CPU")
    place = launch()
    if place.here > (cards := torch.cuda.device_count()):
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            f"{place.here} processes were launched on this machine and {cards} CUDA card(s) can be used: one process a card",
            f"torchrun --nproc-per-node {cards} -m bp_cli train --data my_data.jsonl",
        )
    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype = half if model.dtype == "auto" else getattr(torch, model.dtype)
    card = torch.device("cuda", place.local)
    return _device(settings, card, dtype, torch.cuda.get_device_name(card))


def _by_mlx(settings: Settings) -> Device:
    """Where MLX computes, as torch calls it."""
    import mlx.core as mx

    gpu = mx.default_device() == mx.gpu
    usual = torch.bfloat16 if gpu else torch.float32
    dtype = usual if settings.model.dtype == "auto" else getattr(torch, settings.model.dtype)
    return Device(
        torch.device("mps" if gpu else "cpu"), dtype, None, "MLX on the GPU" if gpu else "MLX on the CPU"
    )


def _device(settings: Settings, device: torch.device, dtype: torch.dtype, name: str) -> Device:
    """Trained weights are fp32: a step of 1e-5 is less than half of bf16's spacing at 0.02, and would be rounded away."""
    weights = torch.float32 if settings.model.mode == "full" else dtype
    return Device(device, weights, None if dtype is torch.float32 else dtype, name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a card or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
