"""The machine: processor, memory, disk, card. A reading costs milliseconds and is shared by all tabs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

EVERY = 1.0  # seconds between two readings


class System:
    """Reads the sensors, at most once a second for whoever asks.

    Args:
        output: whose disk is told.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._lock = threading.Lock()
        self._at = 0.0
        self._told: dict[str, Any] = {}
        self._sensor: Any = None
        self._looked = False

    def read(self) -> dict[str, Any]:
        """cpu_percent; memory and disk, used and total, in bytes; gpu_… None without a card."""
        with self._lock:
            if time.monotonic() - self._at < EVERY and self._told:
                return self._told
            self._told, self._at = self._read(), time.monotonic()
            return self._told

    def _read(self) -> dict[str, Any]:
        import psutil

        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self.output))
        told: dict[str, Any] = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_used": memory.total - memory.available,
            "memory_total": memory.total,
            "disk_free": disk.free,
            "disk_total": disk.total,
        }
        reading = self._card()
        for name in ("temperature", "power", "power_limit", "memory_used", "memory_total", "utilization"):
            told[f"gpu_{name}"] = getattr(reading, name, None)
        told["gpu_name"] = getattr(self._sensor, "name", "") if self._sensor else ""
        return told

    def _card(self) -> Any:
        from bp_core.safety.sensors import open_sensor

        if not self._looked:
            self._looked = True
            self._sensor = open_sensor()
        if self._sensor is None:
            return None
        from bp_core.errors import BpError

        try:
            return self._sensor.read()
        except BpError:  # the card no longer answers: a later reading looks for it again
            self._sensor, self._looked = None, False
            return None
