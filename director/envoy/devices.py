"""The NVIDIA devices of the envoy's machine, as its heartbeats tell them.

They are read with `pynvml`, which the extra `gpu` installs. Where it or the driver is missing, an envoy has no devices;
no error here stops a heartbeat.
"""

import asyncio
import logging
from importlib import import_module
from typing import Any

from director.domain.envoy import Device
from director.envoy.side_by_side import in_daemon_thread

PATIENCE_SECONDS = 2.0

log = logging.getLogger("director.envoy.devices")


class Devices:
    """Reads the devices in a thread, one reading at a time, so that a driver that hangs delays no heartbeat."""

    def __init__(self) -> None:
        """Begin without devices; nothing is read yet."""
        self._known: tuple[Device, ...] = ()
        self._reading: asyncio.Task[None] | None = None
        self._nvml: Any = None
        self._said = ""

    async def read(self) -> tuple[Device, ...]:
        """Return the devices; where the driver does not answer within two seconds, those of the last reading.

        While a reading hangs, the next calls return at once.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            await asyncio.wait([self._reading], timeout=PATIENCE_SECONDS)
        return self._known

    async def _read(self) -> None:
        self._known = await in_daemon_thread(self._read_all)

    def _read_all(self) -> tuple[Device, ...]:
        try:
            if self._nvml is None:
                nvml = import_module("pynvml")
                nvml.nvmlInit()
                self._nvml = nvml
            driver_version = self._nvml.nvmlSystemGetDriverVersion()
            count = self._nvml.nvmlDeviceGetCount()
        except Exception as error:  # no library, no driver, or the driver was replaced: begin again the next time
            self._nvml = None
            self._say(f"no NVIDIA devices: {type(error).__name__}: {error}")
            return ()
        found = (self._read_one(index, driver_version) for index in range(count))
        return tuple(device for device in found if device is not None)

    def _read_one(self, index: int, driver_version: str) -> Device | None:
        """Read one device; None where the driver cannot reach it."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            return Device(
                index=index,
                name=self._nvml.nvmlDeviceGetName(handle),
                memory_total_bytes=memory.total,
                memory_used_bytes=memory.used,
                utilization=self._utilization(handle),
                driver_version=driver_version,
            )
        except Exception as error:
            self._say(f"NVIDIA device {index} is left out: {type(error).__name__}: {error}")
            return None

    def _utilization(self, handle: Any) -> float | None:
        """Read how busy a device is; some kinds, such as parts of a divided device, do not say it."""
        try:
            percent: int = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except self._nvml.NVMLError:
            return None
        return percent / 100

    def _say(self, text: str) -> None:
        """Log a text once, until there is another one to log."""
        if text != self._said:
            log.debug("%s", text)
            self._said = text
