"""Readings of one NVIDIA card: through NVML, else through `nvidia-smi`, else none.

- A sensor is one object with `name`, `read()` and `close()`; a machine without a card has none, and nothing else
  changes.
- A figure that the card or the driver does not give is None, never 0: laptops hide the power, MIG slices the
  temperature.
- Cards are named by UUID where torch knows it: NVML counts in PCI order, CUDA by speed and CUDA_VISIBLE_DEVICES,
  so that card 0 of one need not be card 0 of the other.
- The NVML module is passed in, so that tests speak its protocol without a driver.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import Any, Protocol

from bp_core.errors import BpError


@dataclass(frozen=True)
class Reading:
    """One reading of a card; None is what it does not tell.

    Attributes:
        time: seconds of `time.monotonic()`.
        temperature: °C of the chip.
        power: watts drawn now. power_limit: watts allowed.
        memory_used, memory_total: bytes, of all processes.
        utilization: percent of time that some kernel ran.
    """

    time: float
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    utilization: float | None = None


class Sensor(Protocol):
    """What the monitor needs of a card."""

    name: str
    source: str

    def read(self) -> Reading:
        """The present reading.

        Raises:
            BpError: `RUNTIME_GPU_MONITORING_FAILED`: the card or its driver no longer answers.
        """
        ...

    def close(self) -> None:
        """Give the driver's handle back."""
        ...


def _lost(source: str, error: object) -> BpError:
    return BpError("RUNTIME_GPU_MONITORING_FAILED", f"{source}: {error}", "nvidia-smi", retryable=True)


class NvmlSensor:
    """A card through NVML (nvidia-ml-py).

    Args:
        device: index in NVML's (PCI) order, or UUID (`GPU-…`).
        nvml: the `pynvml` module, or what speaks like it.

    Raises:
        BpError: `RUNTIME_GPU_MONITORING_FAILED` where there is no driver or no such card.
    """

    source = "nvml"

    def __init__(self, device: int | str = 0, *, nvml: Any = None) -> None:
        if nvml is None:
            import pynvml as nvml
        self._nvml = nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise _lost("nvml", error) from error
        try:
            by_id = isinstance(device, str)
            self._handle = (
                nvml.nvmlDeviceGetHandleByUUID(device) if by_id else nvml.nvmlDeviceGetHandleByIndex(device)
            )
            name = nvml.nvmlDeviceGetName(self._handle)
        except nvml.NVMLError as error:
            nvml.nvmlShutdown()
            raise _lost(f"nvml, card {device}", error) from error
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def read(self) -> Reading:
        """See `Sensor`."""
        n, h = self._nvml, self._handle
        memory = self._get(lambda: n.nvmlDeviceGetMemoryInfo(h))
        rates = self._get(lambda: n.nvmlDeviceGetUtilizationRates(h))
        power, limit = (
            self._get(lambda: n.nvmlDeviceGetPowerUsage(h)),
            self._get(lambda: n.nvmlDeviceGetEnforcedPowerLimit(h)),
        )
        return Reading(
            time=time.monotonic(),
            temperature=self._get(lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
            power=None if power is None else power / 1000,  # NVML speaks milliwatts
            power_limit=None if limit is None else limit / 1000,
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            utilization=None if rates is None else float(rates.gpu),
        )

    def _get(self, call: Any) -> Any:
        """A figure, or None where this card does not offer it; a card that is gone is an error."""
        try:
            return call()
        except self._nvml.NVMLError as error:
            absent = ("NVMLError_NotSupported", "NVMLError_NoPermission", "NVMLError_FunctionNotFound")
            if type(error).__name__ in absent:
                return None
            raise _lost("nvml", error) from error

    def close(self) -> None:
        """See `Sensor`."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            raise _lost("nvml", error) from error


class SmiSensor:
    """A card through the `nvidia-smi` command, for drivers whose NVML library cannot be loaded.

    Args:
        device: index or UUID.
        command: the program; that of the PATH by default.
        timeout: seconds after which it counts as hung.
    """

    source = "nvidia-smi"
    _FIELDS = (
        "name",
        "temperature.gpu",
        "power.draw",
        "power.limit",
        "memory.used",
        "memory.total",
        "utilization.gpu",
    )

    def __init__(self, device: int | str = 0, *, command: str = "nvidia-smi", timeout: float = 5.0) -> None:
        found = shutil.which(command)
        if found is None:
            raise _lost(command, "not found in PATH")
        self._argv = [
            found,
            f"--id={device}",
            f"--query-gpu={','.join(self._FIELDS)}",
            "--format=csv,noheader,nounits",
        ]
        self._timeout = timeout
        self.name = self._query()[0]

    def read(self) -> Reading:
        """See `Sensor`."""
        _, *texts = self._query()
        temperature, power, limit, used, total, busy = (_number(t) for t in texts)
        mib = 1024 * 1024
        return Reading(
            time=time.monotonic(),
            temperature=temperature,
            power=power,
            power_limit=limit,
            memory_used=None if used is None else int(used * mib),
            memory_total=None if total is None else int(total * mib),
            utilization=busy,
        )

    def _query(self) -> list[str]:
        try:
            done = subprocess.run(
                self._argv,
                capture_output=True,
                text=True,
                timeout=self._timeout,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _lost(self.source, error) from error
        rows = list(csv.reader(done.stdout.splitlines(), skipinitialspace=True))
        if done.returncode != 0 or not rows or len(rows[0]) != len(self._FIELDS):
            raise _lost(
                self.source, (done.stderr or done.stdout).strip().split("\n")[0] or f"exit {done.returncode}"
            )
        return [field.strip() for field in rows[0]]

    def close(self) -> None:
        """See `Sensor`."""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Not Supported]", "[Unknown Error]"
        return None


def open_sensor(device: int | str = 0, *, nvml: Any = None, command: str = "nvidia-smi") -> Sensor | None:
    """The best sensor of a card: NVML, else nvidia-smi, else None.

    Args:
        device: index, or UUID as `bp_core.models.card` tells it.
        nvml: the module to use instead of `pynvml`.
        command: the program to use instead of `nvidia-smi`.
    """
    try:
        return NvmlSensor(device, nvml=nvml)
    except BpError:
        try:
            return SmiSensor(device, command=command)
        except BpError:
            return None
