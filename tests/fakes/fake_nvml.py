"""A stand-in for the `pynvml` module: the calls that bp-core makes, with the names, units and errors of NVML.

Temperatures in °C, power in milliwatts, memory in bytes, utilization in percent, as the real library gives them.
`card.fail` makes every call raise as a card does that fell off the bus; a figure set to None is not supported.
"""

from __future__ import annotations

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class NVMLError_NotFound(NVMLError):
    pass


class FakeNvml:
    """One object in place of the module; `cards` are plain namespaces whose figures a test sets."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self, *cards: SimpleNamespace, driver: bool = True) -> None:
        self.cards = cards or (card(),)
        self.driver = driver
        self.open = 0
        self.reads = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError_LibraryNotFound("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> SimpleNamespace:
        if index >= len(self.cards):
            raise NVMLError_NotFound("Not Found")
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> SimpleNamespace:
        for one in self.cards:
            if one.uuid == uuid:
                return one
        raise NVMLError_NotFound("Not Found")

    def nvmlDeviceGetIndex(self, handle: SimpleNamespace) -> int:
        return self.cards.index(handle)

    def nvmlDeviceGetName(self, handle: SimpleNamespace) -> str:
        return handle.name

    def nvmlDeviceGetTemperature(self, handle: SimpleNamespace, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        self.reads += 1
        return self._figure(handle, handle.temperature)

    def nvmlDeviceGetPowerUsage(self, handle: SimpleNamespace) -> int:
        return self._figure(handle, handle.power)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: SimpleNamespace) -> int:
        return self._figure(handle, handle.power_limit)

    def nvmlDeviceGetMemoryInfo(self, handle: SimpleNamespace) -> SimpleNamespace:
        used = self._figure(handle, handle.used)
        return SimpleNamespace(used=used, total=handle.total, free=handle.total - used)

    def nvmlDeviceGetUtilizationRates(self, handle: SimpleNamespace) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._figure(handle, handle.busy), memory=0)

    @staticmethod
    def _figure(handle: SimpleNamespace, value: int | None) -> int:
        if handle.fail:
            raise NVMLError_GpuIsLost("GPU is lost")
        if value is None:
            raise NVMLError_NotSupported("Not Supported")
        return value


def card(
    *,
    name: str = "NVIDIA GeForce RTX 4070",
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000",
    temperature: int | None = 60,
    power: int | None = 150_000,
    power_limit: int | None = 200_000,
    used: int | None = 4 * 1024**3,
    total: int = 12 * 1024**3,
    busy: int | None = 97,
    fail: bool = False,
) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        uuid=uuid,
        temperature=temperature,
        power=power,
        power_limit=power_limit,
        used=used,
        total=total,
        busy=busy,
        fail=fail,
    )
