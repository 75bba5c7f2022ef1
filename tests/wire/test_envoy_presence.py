"""What the federation sees of a whole envoy: its versions and devices, its goodbye, and its retirement."""

import platform
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from director.client import Device
from director.domain.types import ExperimentState
from director.version import __version__
from tests.wire.federated import Federated, is_gone, until

GIBIBYTE = 1 << 30


def fake_nvml() -> ModuleType:
    """Make a library that knows two devices, of which one does not say how busy it is."""

    class NVMLError(Exception):
        pass

    def rates(handle: int) -> SimpleNamespace:
        if handle == 1:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=75, memory=10)

    functions: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.86.15",
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: f"NVIDIA A{100 + handle}",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=40 * GIBIBYTE, used=handle * GIBIBYTE),
        "nvmlDeviceGetUtilizationRates": rates,
    }
    module = ModuleType("pynvml")
    vars(module).update(functions)
    return module


@pytest.fixture
def online(federated: Federated) -> Any:
    """Says which envoys are online."""

    async def names() -> list[str]:
        return [envoy.name for envoy in await federated.envoys(online=True)]

    return names


async def test_versions_and_devices_of_an_envoy_are_listed(federated, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    federated.start_envoy("oslo")
    await federated.until_registered("oslo")

    async def has_devices() -> bool:
        [envoy] = await federated.envoys()
        return envoy.devices != ()

    await until(has_devices)
    [envoy] = await federated.envoys()

    assert envoy.devices == (
        Device(0, "NVIDIA A100", 40 * GIBIBYTE, 0, 0.75, "570.86.15"),
        Device(1, "NVIDIA A101", 40 * GIBIBYTE, GIBIBYTE, None, "570.86.15"),
    )
    assert (envoy.sdk_version, envoy.python_version) == (__version__, platform.python_version())
    assert (envoy.shard.samples, envoy.shard.sample_shape) == (10, (1,))


async def test_envoy_that_is_stopped_is_offline_at_once_and_its_successor_stays(federated, online):
    federated.start_envoy("oslo")
    federated.start_envoy("rome")
    await federated.until_registered("oslo", "rome")

    await federated.stop_envoy("oslo")
    after_goodbye = await online()
    federated.start_envoy("oslo")
    await federated.until_registered("oslo")

    assert after_goodbye == ["rome"]
    assert await online() == ["oslo", "rome"]


async def test_experiment_of_a_retired_envoy_stops_and_a_restored_one_serves_the_next(federated, online):
    federated.start_envoy("oslo", 1)
    await federated.submit("oslo", mood="slow")
    pid = await federated.noted("train-1-1")

    await federated.ask(lambda federation: federation.retire_envoy("oslo"), caller="operator")

    assert await online() == []
    assert await federated.finished() is ExperimentState.FAILED
    await until(lambda: is_gone(pid))
    await federated.ask(lambda federation: federation.restore_envoy("oslo"), caller="operator")
    await federated.submit("oslo", name="next")
    assert await federated.finished("next") is ExperimentState.FINISHED
