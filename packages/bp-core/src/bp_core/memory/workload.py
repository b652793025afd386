"""What a training asks of memory: the settings that change it, and nothing else. No torch."""

from __future__ import annotations

import dataclasses

PAIRS = ("dpo", "orpo", "simpo")  # methods whose unit is two pieces in one forward pass
QUANTISED = {  # bytes of a weight
    "none": None,
    "nf4": 0.5 + (1 + 4 / 256) / 64,  # two a byte; a byte of scale per 64, whose own scale is fp32 per 256
    "int8": 1.0,
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """One forward and backward pass of a run, and what it keeps between passes.

    Args:
        mode: `lora` or `full`.
        method: training method.
        rank: of the adapter.
        targets: modules with an adapter, or `("all-linear",)`.
        dora: whether magnitudes are learnt apart.
        quantization: of the frozen linear weights: `none`, `nf4`, `int8`.
        weight_bytes: of a weight that is not quantised: 4 fp32, 2 bf16 and fp16.
        half: whether matrix products are in 16 bits (autocast).
        optim: as the setting names it; never `auto`.
        checkpointing: whether the activations of a layer are computed again in the backward pass.
        batch: units per forward pass.
        length: tokens of the longest piece; of a packed row where `packing`.
        accumulation: forward passes per optimizer step.
        loss_chunk: positions whose logits exist at a time; 0 all.
        packing: whether a forward pass is one row of `length` tokens.
        completion: of a method that draws its answers: tokens of one, `length` being those of its prompt.
        device: `cuda` or `cpu`.
        offload: `full`: whether the decoder layers, with all that belongs to them, are in main memory but for the one at work.
    """

    mode: str = "lora"
    method: str = "sft"
    rank: int = 32
    targets: tuple[str, ...] = ("all-linear",)
    dora: bool = False
    quantization: str = "none"
    weight_bytes: int = 2
    half: bool = True
    optim: str = "adamw_torch_fused"
    checkpointing: bool = True
    batch: int = 1
    length: int = 2048
    accumulation: int = 16
    loss_chunk: int = 512
    packing: bool = False
    completion: int = 0
    device: str = "cuda"
    offload: bool = False

    @property
    def pieces(self) -> int:
        """Rows of a forward pass."""
        return 1 if self.packing else self.batch * (2 if self.method in PAIRS else 1)

    @property
    def tokens(self) -> int:
        """Positions of a forward pass."""
        return self.pieces * (self.length + self.completion)

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation."""
        return 2 if self.half else 4
