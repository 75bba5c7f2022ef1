"""What a client in any language finds on the port: reflection and health."""

import asyncio
import shutil
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from director.wire.server import SERVICES, Server
from tests.wire.golden import descriptors
from tests.world import world


@pytest.fixture
async def port(migrated_sqlite, tmp_path) -> AsyncIterator[int]:
    shutil.copy(migrated_sqlite, tmp_path / "director.db")
    async with world(f"sqlite:///{tmp_path / 'director.db'}") as federation:
        server = Server(federation.process)
        yield await server.start("127.0.0.1", 0, tls=None)
        await server.stop(0)


def reflected(port: int) -> tuple[set[str], set[str]]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool = DescriptorPool(database)
        services = set(database.get_services())
        methods = {
            method.input_type.full_name for service in SERVICES for method in pool.FindServiceByName(service).methods
        }
        found = {name for name in descriptors() if pool.FindMessageTypeByName(name)}
        return services, methods | found


async def test_reflection_names_every_service_and_finds_every_message(port):
    services, messages = await asyncio.to_thread(reflected, port)

    assert services == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert messages == descriptors().keys()


async def test_port_says_that_it_serves(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert len(SERVICES) == 4
        for service in ("", *SERVICES):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
