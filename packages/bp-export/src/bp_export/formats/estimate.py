"""What an export will take, before it starts: bytes, memory, disk, time; and the refusal where the disk is too small.

- Sizes are exact (they follow from shapes and types); memory and time are estimates and are called so.
- Files of an interrupted run of the same export count as room that is there already.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_export.errors import BpError
from bp_export.memory import available_ram_bytes

# f32 megabytes a second that one core turned into each type, read-back included, with room for a slower machine than
# the one they were measured on (two shared x86-64 cores); a plan is right within a factor of about two.
_RATE = {
    "lora": 400,
    "merged": 300,
    "f32": 250,
    "bf16": 400,
    "f16": 400,
    "q8_0": 250,
    "q4_0": 250,
    "q6_k": 110,
    "q5_k_m": 75,
    "q4_k_m": 80,
    "q3_k_m": 80,
    "q2_k": 75,
}
_MARGIN = 64 << 20  # configuration, tokenizer, journal


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write and need.

    Args:
        output: the file or directory under its final name.
        output_bytes: its size.
        tensors: number of tensors.
        parameters: weights in them.
        disk_needed_bytes: room needed now, beyond what an interrupted run left.
        disk_free_bytes: room on that disk.
        ram_estimate_mb: peak memory of this process, an estimate.
        ram_available_mb: memory of the machine, None where unknown.
        seconds_estimate: an estimate.
        steps: what will be done, in words.
    """

    output: Path
    output_bytes: int
    tensors: int
    parameters: int
    disk_needed_bytes: int
    disk_free_bytes: int
    ram_estimate_mb: float
    ram_available_mb: float | None
    seconds_estimate: float
    steps: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "output": str(self.output), "steps": list(self.steps)}

    def require_disk(self) -> None:
        """Raise where the disk is too small.

        Raises:
            BpError: `RUNTIME_DISK_FULL`.
        """
        if self.disk_needed_bytes > self.disk_free_bytes:
            raise BpError(
                "RUNTIME_DISK_FULL",
                f"{self.output.parent} has {size(self.disk_free_bytes)} free and {size(self.disk_needed_bytes)} are needed",
                "choose a folder on a larger disk with --output, or a smaller --quantization",
                details={"needed": self.disk_needed_bytes, "free": self.disk_free_bytes},
            )


def make_plan(
    output: Path,
    *,
    kind: str,
    output_bytes: int,
    tensors: int,
    parameters: int,
    extra_bytes: int = 0,
    reserve_bytes: int = 0,
    partial: Path | None = None,
    steps: tuple[str, ...] = (),
) -> ExportPlan:
    """Put the figures of an export together.

    Args:
        output: final name.
        kind: "lora", "merged" or a quantization.
        output_bytes: size of the result.
        tensors: number of tensors.
        parameters: weights in them.
        extra_bytes: room for what is written beside it for a while.
        reserve_bytes: room that must stay free.
        partial: what an interrupted run left.
        steps: what will be done, in words.
    """
    cores = max(1, os.cpu_count() or 1)
    there = tree_bytes(partial) if partial is not None else 0
    needed = max(0, output_bytes - there) + extra_bytes + reserve_bytes + _MARGIN
    ram = available_ram_bytes()
    return ExportPlan(
        output=output,
        output_bytes=output_bytes,
        tensors=tensors,
        parameters=parameters,
        disk_needed_bytes=needed,
        disk_free_bytes=shutil.disk_usage(_existing(output)).free,
        ram_estimate_mb=round(150 + 60 * min(cores, 8) * (0 if kind == "lora" else 1), 0),
        ram_available_mb=round(ram / 1e6, 0) if ram is not None else None,
        seconds_estimate=round(
            parameters * 4 / 1e6 / (_RATE.get(kind, 60) * max(1.0, min(cores, 8) * 0.7)), 1
        ),
        steps=steps,
    )


def size(count: int) -> str:
    """A number of bytes for people: 1.2 GB.

    >>> size(999), size(1_234_567)
    ('999 B', '1.2 MB')
    """
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a directory; 0 where there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
