"""What a card takes beside tensors, measured on it and kept for the estimates that follow: `estimate-vram --calibrate`."""

from __future__ import annotations

from typing import Any

import torch
from bp_merge.common import BpError
from transformers import AutoModelForCausalLM, Qwen3Config

from bp_core.memory.estimate import Overhead
from bp_core.memory.machine import write_measured

LENGTHS = (512, 2048, 1024)  # tokens of the passes: more, then fewer, as the steps of a run have them
ROWS = 2


def calibrate() -> tuple[str, Overhead]:
    """Pass a small random model forward and backward on the first card, and keep what that took beside its tensors.

    Returns:
        (the card's name, what it takes).

    Raises:
        BpError: `DEP_GPU_NOT_AVAILABLE` where there is no card.
    """
    if not torch.cuda.is_available():
        raise BpError(
            "DEP_GPU_NOT_AVAILABLE",
            "no CUDA card can be measured here",
            "name a card by its size: backprop estimate-vram --vram-gb 16",
        )
    card = torch.device("cuda", 0)
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 4,
        "vocab_size": 32_000,
    }
    with card:
        model = AutoModelForCausalLM.from_config(Qwen3Config(**sizes), dtype=torch.bfloat16)
        settled = torch.cuda.memory_allocated(card)
        for length in LENGTHS:
            ids = torch.randint(0, sizes["vocab_size"], (ROWS, length))
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            model.zero_grad(set_to_none=True)
    free, total = torch.cuda.mem_get_info(card)
    taken = overhead_of(
        in_use=total - free,
        held=torch.cuda.memory_reserved(card),
        most_held=torch.cuda.max_memory_reserved(card),
        most=torch.cuda.max_memory_allocated(card),
        settled=settled,
    )
    name = torch.cuda.get_device_name(card)
    write_measured(name, taken)
    return name, taken


def overhead_of(*, in_use: int, held: int, most_held: int, most: int, settled: int) -> Overhead:
    """What is taken beside tensors, from bytes.

    Args:
        in_use: of the card, by whatever.
        held: by the caching allocator at that moment.
        most_held: by it at most.
        most: of tensors at most.
        settled: of tensors that stay.

    Example:
        Of 10 GB in use the allocator holds 9: 1 GB is fixed. It held 9 GB at most where tensors had 8, 4 of which stayed:
        a quarter of what came and went.
    """
    return Overhead(float(max(0, in_use - held)), max(0, most_held - most) / max(1, most - settled))
