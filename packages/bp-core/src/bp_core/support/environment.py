"""What a run ran on: versions, system and hardware for its record, and how much room there is.

- Versions come from the installed metadata, so nothing heavy is imported to write them down.
- Memory is what this process may use: a container's limit counts before the host's.
- The command line is recorded with its secrets redacted; user name, host name and folders are not recorded here.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bp_core.support.redact import is_secret_name, redact_text

PACKAGES = (
    "bp-core", "bp-data", "bp-merge", "bp-export", "bp-cli",
    "torch", "transformers", "peft", "trl", "accelerate", "tokenizers", "safetensors", "numpy",
    "bitsandbytes", "liger-kernel", "flash-attn", "torchao", "triton", "mlx-lm", "gguf",
)  # fmt: skip
# A difference here can change the numbers of a run; elsewhere it only tells where it ran.
NUMERICS = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "tokenizers",
    "bitsandbytes",
    "liger-kernel",
)
_CHANGES = " (may change the numbers)"
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


@dataclass(frozen=True)
class Room:
    """Bytes free and in all; None where it cannot be told."""

    free: int | None
    total: int | None


def versions() -> dict[str, str]:
    """The installed versions of the packages that shape a run; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def memory_room() -> Room:
    """Main memory that this process may still use, and all of it."""
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    for limit_file, used_file in _CGROUPS:
        limit, used = _count(limit_file), _count(used_file)
        if limit is not None and used is not None and limit < total:
            free, total = min(free, max(0, limit - used)), limit
    return Room(free, total)


def peak_memory(*, cuda: bool = False) -> int:
    """Most memory used so far: of the card by torch, or of this process, in bytes."""
    if cuda:
        import torch

        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def _count(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None


def disk_room(path: str | Path) -> Room:
    """Room on the disk that holds `path`, or that will hold it."""
    here = Path(path).absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    try:
        usage = shutil.disk_usage(here)
    except OSError:
        return Room(None, None)
    return Room(usage.free, usage.total)


def gpus(*, nvml: Any = None) -> list[dict[str, Any]]:
    """The NVIDIA cards of the machine: name, memory in bytes, driver. Empty without a driver; torch is not needed."""
    if nvml is None:
        import pynvml as nvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        cards = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            try:
                total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            except nvml.NVMLError:
                total = None
            cards.append(
                {"name": _text(nvml.nvmlDeviceGetName(handle)), "memory_total": total, "driver": driver}
            )
        return cards
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def processor() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def collect(output: str | Path = ".", *, nvml: Any = None) -> dict[str, Any]:
    """The environment of a run as plain data, for `RunStore.create(environment=…)`.

    Args:
        output: where the run writes; its disk is measured.
        nvml: the module to use instead of `pynvml`.

    Adds torch's own view (CUDA version, devices) only where torch is loaded already.
    """
    memory, disk = memory_room(), disk_room(output)
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_total": memory.total,
        "memory_free": memory.free,
        "disk_free": disk.free,
        "packages": versions(),
        "gpus": gpus(nvml=nvml),
        "command": redact_text(" ".join(command())),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch"] = {
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "devices": [
                {
                    "name": torch.cuda.get_device_name(i),
                    "capability": ".".join(map(str, torch.cuda.get_device_capability(i))),
                }
                for i in range(torch.cuda.device_count())
            ]
            if torch.cuda.is_available()
            else [],
        }
    return facts


def command() -> list[str]:
    """The command line, program first without its folder; the value after a secret's flag is hidden."""
    shown: list[str] = []
    for argument in [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv and sys.argv[0] else []:
        previous = shown[-1] if shown else ""
        hidden = previous.startswith("--") and "=" not in previous and is_secret_name(previous.lstrip("-"))
        shown.append("***" if hidden else argument)
    return shown


def numeric_differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Of two environments what differs and changes the last bits of a computation: card or processor, libraries.

    >>> numeric_differences({"gpus": [{"name": "A"}], "python": "3.11"}, {"gpus": [{"name": "B"}], "python": "3.12"})
    ['GPU A → B']
    """
    lines = differences(recorded, present)
    on_card = bool(recorded.get("gpus") and present.get("gpus"))
    kept = [line for line in lines if _CHANGES in line or (line.startswith("processor") and not on_card)]
    return [line.replace(_CHANGES, "") for line in kept]


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, most consequential first, one readable line each.

    >>> differences({"packages": {"torch": "2.12"}}, {"packages": {"torch": "2.13"}})
    ['torch 2.12 → 2.13 (may change the numbers)']
    """
    lines: list[str] = []
    old, new = recorded.get("packages") or {}, present.get("packages") or {}
    names = sorted(set(old) | set(new), key=lambda n: (n not in NUMERICS, n))
    for name in names:
        if old.get(name) != new.get(name):
            why = _CHANGES if name in NUMERICS else ""
            lines.append(f"{name} {old.get(name, 'absent')} → {new.get(name, 'absent')}{why}")
    cards = [[g.get("name") for g in side.get("gpus") or []] for side in (recorded, present)]
    if cards[0] != cards[1]:
        shown = [", ".join(map(str, c)) or "none" for c in cards]
        lines.insert(0, f"GPU {shown[0]} → {shown[1]}{_CHANGES}")
    for key, label in (
        ("processor", "processor"),
        ("system", "system"),
        ("machine", "machine"),
        ("python", "Python"),
    ):
        if key in recorded and recorded.get(key) != present.get(key):
            lines.append(f"{label} {recorded.get(key)} → {present.get(key)}")
    return lines
