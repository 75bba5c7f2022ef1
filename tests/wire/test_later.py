"""What means "later" and what means "less": delays that are told and obeyed, and the limit of a message."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from director.client import Federation
from director.errors import DiskFull, TooLarge
from director.services import disk
from director.v1 import experiments_pb2, experiments_pb2_grpc
from director.wire import channels
from director.wire.statuses import from_rpc_error
from tests.wire.announcing import announce
from tests.wire.calls import AT_ONCE, LARGEST_MESSAGE, gather
from tests.world import MODEL, World

EXBIBYTE = 1 << 60
MEBIBYTE = 1 << 20


def delay_of(error: grpc.aio.AioRpcError) -> float | None:
    """Return the seconds of a status's RetryInfo; None without one."""
    status, info = rpc_status.from_call(error), error_details_pb2.RetryInfo()
    if status is None or not any(detail.Unpack(info) for detail in status.details):
        return None
    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9


def fill(federation: World) -> None:
    """Leave no room on the disk but the reserve."""
    runtime = federation.process.runtime
    runtime.disk.settings = runtime.settings.model_copy(update={"disk_reserve_bytes": EXBIBYTE})


def relieve(federation: World) -> None:
    """Give the room back."""
    federation.process.runtime.disk.settings = federation.process.runtime.settings


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the room looked at whenever it matters."""
    monkeypatch.setattr(disk, "CACHED_SECONDS", 0)


# Later


async def test_director_without_room_says_when_to_come_back(federation, clients):
    await federation.register("a", "b")
    fill(federation)
    conversation = await announce(clients("researcher"))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await conversation.hear()

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert delay_of(caught.value) == 5.0
    assert type(from_rpc_error(caught.value)) is DiskFull


async def test_director_that_stops_says_when_to_come_back(federation, clients):
    await federation.register("a", "b")
    submitted = await federation.submit()
    request = experiments_pb2.StreamEventsRequest(experiment_uid=submitted.uid, follow=True)
    following = asyncio.ensure_future(gather(clients("researcher").experiments.StreamEvents(request)))
    await asyncio.sleep(0.1)
    await federation.process.drain()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(following, AT_ONCE)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert delay_of(caught.value) == 0.2


async def test_refusal_that_stays_names_no_delay(federation, clients):
    request = experiments_pb2.GetExperimentRequest(experiment_name="nowhere")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await clients("researcher").experiments.GetExperiment(request)

    assert delay_of(caught.value) is None


async def test_client_waits_as_long_as_it_is_told_and_then_goes_on(traffic, federation, port, workspace, monkeypatch):
    monkeypatch.setattr(DiskFull, "retry_after", timedelta(seconds=1))
    await federation.register("a")
    fill(federation)

    def submit() -> str:
        with Federation(f"127.0.0.1:{port}", client_id="researcher") as far:
            return far.submit("one", workspace=workspace, model=MODEL, collaborators=["a"]).name

    submitting = asyncio.create_task(asyncio.to_thread(submit))
    while not traffic.of("SubmitExperiment", "submission"):
        await asyncio.sleep(0.01)
    first_at = time.monotonic()
    await asyncio.sleep(0.5)
    relieve(federation)

    assert await submitting == "one"
    assert time.monotonic() - first_at >= 0.95
    assert len(traffic.of("SubmitExperiment", "submission")) == 2


async def test_client_whose_patience_ends_first_is_told_why(federation, port, workspace):
    await federation.register("a")
    fill(federation)

    def submit() -> None:
        with Federation(f"127.0.0.1:{port}", client_id="researcher", patience=0.5) as far:
            far.submit("one", workspace=workspace, model=MODEL, collaborators=["a"], submission_id="one-and-only")

    before = time.monotonic()
    with pytest.raises(DiskFull, match="submission id one-and-only"):
        await asyncio.to_thread(submit)

    assert time.monotonic() - before < 4, "it did not begin a pause of 5 s"


# Less


@pytest.fixture
async def unlimited(port: int) -> AsyncIterator[Any]:
    """Calls of a researcher whose own channel has no limit."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield experiments_pb2_grpc.ExperimentServiceStub(channel)


def message_of(size: int) -> experiments_pb2.GetExperimentRequest:
    """Return a message of so many bytes."""
    request = experiments_pb2.GetExperimentRequest(experiment_name="")
    request.experiment_name = "x" * (size - 5)
    assert request.ByteSize() == size
    return request


async def test_message_above_the_limit_of_the_port_is_refused_by_grpc_and_means_less(unlimited):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unlimited.GetExperiment(message_of(LARGEST_MESSAGE + 1), metadata=[("client_id", "researcher")])

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert delay_of(caught.value) is None
    assert type(from_rpc_error(caught.value)) is TooLarge


async def test_message_at_the_limit_is_read(unlimited):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unlimited.GetExperiment(message_of(LARGEST_MESSAGE), metadata=[("client_id", "researcher")])

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_message_above_the_limit_is_too_large_in_the_client(director, researcher, envoy, workspace, monkeypatch):
    handle = researcher.submit("one", workspace=workspace, model=MODEL, collaborators=["a"])
    reason = "x" * (5 * MEBIBYTE)

    with pytest.raises(TooLarge):
        handle.cancel(reason)
    monkeypatch.setattr(channels, "OPTIONS", (("grpc.max_send_message_length", -1),))
    with Federation(director.address, client_id="researcher") as unlimited, pytest.raises(TooLarge):
        unlimited.experiment("one").cancel(reason)

    assert not handle.refresh().state.terminal


@pytest.mark.parametrize("settings", [{"chunk_bytes": 4 * MEBIBYTE}])
async def test_largest_chunk_passes_in_both_directions(traffic, federation, port, workspace, settings):
    await federation.register("a")
    model = {"weights": np.random.default_rng(1).random(MEBIBYTE + MEBIBYTE // 4)}

    def there_and_back() -> bool:
        with Federation(f"127.0.0.1:{port}", client_id="researcher") as far:
            handle = far.submit("one", workspace=workspace, model=model, collaborators=["a"])
            return np.array_equal(handle.model("initial")["weights"], model["weights"])

    assert await asyncio.to_thread(there_and_back)
    for method in ("SubmitExperiment", "DownloadModel"):
        sizes = traffic.of(method, "chunk")
        assert sum(size > 4 * MEBIBYTE for size in sizes) == 2
        assert max(sizes) <= LARGEST_MESSAGE
