"""What an adapter that was trained on a quantised base says on the base in full precision, on which it is merged.

- Rounding the base is a change to the model that the adapter learnt around: merged into other weights it answers a little
  differently. How differently is measured on rows of the data, on the CPU, where main memory has room for the base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bp_core.models.device import Device
from bp_core.models.load import load_model, parameter_count
from bp_core.models.peft_quietly import PeftModel
from bp_core.settings.knobs import Settings
from bp_core.support.environment import memory_room

ROOM = 1.3  # main memory that must be free, as a multiple of the weights


@dataclasses.dataclass(frozen=True)
class Gap:
    """The distance between both bases under the same adapter, over some tokens.

    Args:
        tokens: compared.
        kl: mean KL divergence of the full-precision base's predictions from the quantised base's, nats.
        top1: share of tokens whose most likely successor is the same.
    """

    tokens: int
    kl: float
    top1: float

    def __str__(self) -> str:
        return (
            f"on the base in full precision the adapter predicts the same next token for {self.top1:.1%} of "
            f"{self.tokens} tokens, KL {self.kl:.4f} nats"
        )


@torch.no_grad()
def measure_gap(
    model: Any, texts: Sequence[Sequence[int]], adapter: Path, base: Path, settings: Settings, device: Device
) -> Gap | str:
    """Compare the model in memory with its adapter on the full-precision base.

    Args:
        model: PEFT model on the quantised base.
        texts: token ids, one sequence each.
        adapter: its directory.
        base: folder of the base in full precision.
        settings: of the run.
        device: of the run.

    Returns:
        The gap, or why it could not be measured.
    """
    dtype = device.autocast or torch.float32
    needed, free = parameter_count(base) * dtype.itemsize * ROOM, memory_room().free
    if free is not None and needed > free:
        return f"the base in full precision needs {needed / 1e9:.1f} GB of main memory, {free / 1e9:.1f} GB are free"
    was_training = model.training
    model.eval()
    with torch.autocast(device.device.type, dtype=dtype, enabled=device.autocast is not None):
        mine = [_log_probs(model, ids, device.device) for ids in texts]
    model.train(was_training)
    plain = settings.replace("default", quantization="none", load_in_4bit=False, load_in_8bit=False)
    cpu = torch.device("cpu")
    full: Any = load_model(base, plain, Device(cpu, dtype, None, "CPU"))
    full = PeftModel.from_pretrained(full, str(adapter)).eval()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
        theirs = [_log_probs(full, ids, cpu) for ids in texts]
    q, p = torch.cat(mine), torch.cat(theirs)  # (T, V)
    kl = (q.exp() * (q - p)).sum(-1).mean()
    return Gap(len(q), float(kl), float((q.argmax(-1) == p.argmax(-1)).float().mean()))


def _log_probs(model: Any, ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """fp32 (T, V) on the CPU."""
    out = model(input_ids=torch.tensor([list(ids)], device=device), use_cache=False)
    return torch.log_softmax(out.logits[0].float(), -1).cpu()
