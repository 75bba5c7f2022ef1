"""What those who watch the port are told, from the first answer to the last."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from director.v1 import envoys_pb2, federation_pb2
from director.wire.server import SERVICES
from tests.wire.calls import AT_ONCE

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def health(port) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_director_that_is_going_says_so_while_it_still_takes_calls(server, health, clients):
    await server.withdraw()

    for service in ("", *SERVICES):
        assert (await health.Check(asked(service))).status == NOT_SERVING
    assert await clients("researcher").federation.GetFederation(federation_pb2.GetFederationRequest())


async def test_watcher_is_told_when_it_changes(server, health, caplog):
    watching = health.Watch(asked())
    before = await watching.read()

    await server.withdraw()
    after = await asyncio.wait_for(watching.read(), AT_ONCE)
    watching.cancel()

    assert (before.status, after.status) == (SERVING, NOT_SERVING)
    assert caplog.records == []


async def test_call_that_runs_may_end_within_the_grace_and_no_other_is_taken(federation, server, clients):
    [session] = await federation.register("a")
    request = envoys_pb2.WaitExperimentRequest(envoy="a", session_id=session.id)
    waiting = asyncio.ensure_future(clients("a").envoys.WaitExperiment(request))
    await asyncio.sleep(0.2)

    stopping = asyncio.create_task(server.stop(AT_ONCE))
    await asyncio.sleep(0.2)
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await clients("b").federation.GetFederation(federation_pb2.GetFederationRequest(), wait_for_ready=False)
    await federation.process.drain()

    assert not (await waiting).HasField("engagement")
    await asyncio.wait_for(stopping, AT_ONCE)


async def test_call_that_does_not_end_within_the_grace_is_cut_off(federation, server, clients):
    [session] = await federation.register("a")
    request = envoys_pb2.WaitExperimentRequest(envoy="a", session_id=session.id)
    waiting = asyncio.ensure_future(clients("a").envoys.WaitExperiment(request))
    await asyncio.sleep(0.2)

    await asyncio.wait_for(server.stop(0.1), AT_ONCE)

    with pytest.raises(grpc.aio.AioRpcError):
        await waiting
