"""Devices are read from a fake `pynvml`: whatever goes wrong there, a heartbeat has an answer."""

import asyncio
import logging
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from director.domain.envoy import Device
from director.envoy import devices
from director.envoy.devices import Devices

GIBIBYTE = 1 << 30
FIRST = Device(0, "NVIDIA A100", 40 * GIBIBYTE, 3 * GIBIBYTE, 0.25, "570.86.15")
SECOND = Device(1, "NVIDIA A100", 40 * GIBIBYTE, 3 * GIBIBYTE, 0.75, "570.86.15")


class NVMLError(Exception):
    """Stands for the errors of the library."""


class FakeNvml(ModuleType):
    """Two devices, until it is told otherwise: `broken` holds the functions that raise, `lost` the devices."""

    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.broken: set[str] = set()
        self.lost: set[int] = set()
        self.calls: list[str] = []
        self.goes_on = threading.Event()
        self.goes_on.set()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise NVMLError(f"{name} failed")

    def nvmlInit(self) -> None:
        self._call("nvmlInit")

    def nvmlSystemGetDriverVersion(self) -> str:
        self._call("nvmlSystemGetDriverVersion")
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        self._call("nvmlDeviceGetCount")
        self.goes_on.wait()
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._call("nvmlDeviceGetHandleByIndex")
        if index in self.lost:
            raise NVMLError("GPU is lost")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        self._call("nvmlDeviceGetName")
        return "NVIDIA A100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._call("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=40 * GIBIBYTE, free=37 * GIBIBYTE, used=3 * GIBIBYTE)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._call("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=25 + 50 * handle, memory=1)


@pytest.fixture
def nvml(monkeypatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def debugging(caplog) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="director.envoy.devices")
    return caplog


async def test_devices_are_read_with_memory_utilization_and_driver(nvml):
    assert await Devices().read() == (FIRST, SECOND)


async def test_library_is_started_once_for_many_readings(nvml):
    devices = Devices()

    for _ in range(3):
        await devices.read()

    assert nvml.calls.count("nvmlInit") == 1
    assert nvml.calls.count("nvmlDeviceGetCount") == 3


async def test_without_the_library_there_are_no_devices_and_one_debug_line(monkeypatch, debugging):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    devices = Devices()

    found = [await devices.read() for _ in range(3)]

    assert found == [(), (), ()]
    assert [record.levelname for record in debugging.records if record.name == "director.envoy.devices"] == ["DEBUG"]


@pytest.mark.parametrize("name", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
async def test_without_a_driver_there_are_no_devices_and_one_debug_line(nvml, debugging, name):
    nvml.broken = {name}
    devices = Devices()

    found = [await devices.read() for _ in range(3)]

    assert found == [(), (), ()]
    assert [each for each in debugging.messages if "no NVIDIA devices" in each] == [
        f"no NVIDIA devices: NVMLError: {name} failed"
    ]


async def test_driver_that_was_replaced_is_started_again(nvml):
    devices = Devices()
    await devices.read()
    nvml.broken = {"nvmlDeviceGetCount"}
    without = await devices.read()
    nvml.broken = set()

    assert without == ()
    assert await devices.read() == (FIRST, SECOND)
    assert nvml.calls.count("nvmlInit") == 2


async def test_device_that_is_lost_is_left_out(nvml, debugging):
    nvml.lost = {0}

    assert await Devices().read() == (SECOND,)
    assert "NVIDIA device 0 is left out: NVMLError: GPU is lost" in debugging.messages


async def test_device_that_does_not_say_how_busy_it_is_has_no_utilization(nvml):
    nvml.broken = {"nvmlDeviceGetUtilizationRates"}

    found = await Devices().read()

    assert [device.utilization for device in found] == [None, None]
    assert [device.memory_used_bytes for device in found] == [3 * GIBIBYTE] * 2


async def test_driver_that_hangs_delays_one_reading_for_a_moment_and_the_next_ones_not_at_all(nvml, monkeypatch):
    monkeypatch.setattr(devices, "PATIENCE_SECONDS", 0.1)
    reader = Devices()
    await reader.read()
    nvml.goes_on.clear()
    nvml.lost = {0}

    seconds = []
    for _ in range(3):
        before = time.monotonic()
        assert await reader.read() == (FIRST, SECOND)
        seconds.append(time.monotonic() - before)
    asked = nvml.calls.count("nvmlDeviceGetCount")
    nvml.goes_on.set()
    await asyncio.sleep(0.05)

    assert 0.1 <= seconds[0] < 1
    assert max(seconds[1:]) < 0.05
    assert asked == 2
    assert await reader.read() == (SECOND,)
