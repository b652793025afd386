"""Which model, and how it is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Le
from bp_merge.common import knob

from bp_core.settings.tables import DEFAULT_MODEL


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model: str = knob(
        DEFAULT_MODEL,
        "Base model: a Hub id, a folder, or `tiny` (embedded).",
        group="Model",
        flags=("-m",),
        env=("BACKPROPAGATE_MODEL__NAME",),
        keywords=("model_name", "name"),
    )
    mode: str = knob(
        "lora",
        "What is trained: an adapter beside frozen weights (lora), or every weight of the model (full).",
        group="Model",
        choices=("lora", "full"),
    )
    full_ft_ceiling_billions: Annotated[float, Gt(0), Le(1e6)] | None = knob(
        None,
        "Largest model that --mode full trains. Default: by the card's memory, 4 for 16 GB, 5 for 24 GB, 6 for 32 GB.",
        group="Model",
        unit="billion parameters",
    )
    full_ft_offload: bool = knob(
        False,
        "With --mode full: keep the decoder layers, their gradients and the optimizer in main memory, and bring a layer "
        "at a time to the card. Slower; trains what the card does not hold.",
        group="Model",
    )
    revision: str | None = knob(None, "Commit, tag or branch of a Hub model.", group="Model")
    dtype: str = knob(
        "auto",
        "Number format of the frozen weights, and of matrix products; auto is bf16 on a card that has it, fp32 on the CPU. "
        "Weights that --mode full trains are fp32 whatever it says.",
        group="Model",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = knob(
        "auto",
        "Format of the frozen linear weights: none keeps --dtype; nf4 and fp4 take 4 bits with double quantisation "
        "(QLoRA, arXiv:2305.14314), int8 takes 8 (arXiv:2208.07339), both with bitsandbytes; auto is none, or nf4 on a card where the model fits no other way.",
        group="Model",
        choices=("auto", "none", "nf4", "fp4", "int8"),
        flags=("--quantization-type",),
        keywords=("quantization_type",),
    )
    load_in_4bit: bool = knob(
        False, "Frozen linear weights in 4 bits: nf4, or fp4 where --quantization says so.", group="Model"
    )
    load_in_8bit: bool = knob(
        False, "Frozen linear weights in 8 bits, as --quantization int8.", group="Model"
    )
    backend: str = knob(
        "auto",
        "Where to compute; auto is the first CUDA card, else the CPU; mps is Apple's GPU through torch, mlx through MLX.",
        group="Model",
        choices=("auto", "cuda", "cpu", "mps", "mlx"),
        env=("BACKPROPAGATE_TRAINING__BACKEND",),
    )
    attn_implementation: str = knob(
        "auto",
        "Attention kernel; auto is flash attention where it is installed and the card and the model have it, else sdpa.",
        group="Model",
        choices=("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"),
    )
    max_seq_length: Annotated[int, Gt(0), Le(2**24)] = knob(
        2048,
        "Longest example; a longer one is rejected, or cut with --truncate.",
        group="Model",
        unit="tokens",
        flags=("--max-length",),
        keywords=("max_length",),
    )
    chat_template: str | None = knob(
        None,
        "Template for a model that has none, or instead of its own: chatml, gemma, llama3, mistral, plain, or a Jinja file.",
        group="Model",
    )
    init_adapter: Path | None = knob(None, "Continue training this adapter.", group="Model")
    trust_remote_code: bool = knob(False, "Run Python code that comes with a Hub model.", group="Model")

    @property
    def wanted_quantization(self) -> str:
        """The format of the frozen weights by all three settings; `auto` where it is open."""
        if self.load_in_8bit:
            return "int8"
        return "nf4" if self.load_in_4bit and self.quantization == "auto" else self.quantization
