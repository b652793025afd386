"""Whose memory counts: a card that is named by its size, the card that is here, or main memory. No torch.

- What the card takes beside tensors is what `calibrate` measured on it, where it did.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from bp_core.memory.estimate import Overhead
from bp_core.memory.verdict import GB
from bp_core.support import environment
from bp_core.support.files import write_json

FOLDER = "BACKPROPAGATE_MEMORY_DIR"  # environment name of the folder that holds what was measured


@dataclasses.dataclass(frozen=True)
class Machine:
    """A memory to train in.

    Args:
        device: `cuda` or `cpu`.
        name: as people call it.
        capacity: bytes.
        overhead: what it takes beside tensors.
        overhead_from: `usual`, or `measured`.
    """

    device: str
    name: str
    capacity: float
    overhead: Overhead
    overhead_from: str = "usual"


def machine(vram_gb: float | None = None, *, cpu: bool = False, nvml: Any = None) -> Machine:
    """The memory that counts.

    Args:
        vram_gb: of a card that need not be here.
        cpu: whether main memory is meant though there may be a card.
        nvml: the module to use instead of `pynvml`.
    """
    if vram_gb is not None:
        return Machine("cuda", f"a card of {vram_gb:g} GB", vram_gb * GB, Overhead.usual("cuda"))
    cards = [] if cpu else environment.gpus(nvml=nvml)
    if cards and cards[0]["memory_total"]:
        name = str(cards[0]["name"])
        measured = read_measured(name)
        return Machine(
            "cuda",
            name,
            float(cards[0]["memory_total"]),
            measured or Overhead.usual("cuda"),
            "measured" if measured else "usual",
        )
    total = environment.memory_room().total
    return Machine("cpu", "main memory (no card)", float(total or 0), Overhead.usual("cpu"))


def _file(card: str) -> Path:
    root = Path(os.environ.get(FOLDER) or Path.home() / ".backpropagate" / "memory")
    return root / ("".join(c if c.isalnum() else "-" for c in card) + ".json")


def read_measured(card: str) -> Overhead | None:
    """What was measured on a card of that name, None where nothing was, or by other versions."""
    try:
        found = json.loads(_file(card).read_text(encoding="utf-8"))
        if found["torch"] != environment.versions().get("torch"):
            return None
        return Overhead(float(found["fixed"]), float(found["share"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_measured(card: str, overhead: Overhead) -> Path:
    """Keep what was measured on a card, for the versions that are installed."""
    file = _file(card)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**dataclasses.asdict(overhead), "torch": environment.versions().get("torch")})
    return file
