"""A PostgreSQL server that falls, or is gone for a while: it costs time, and nothing else."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest

from director.store.engine import schema
from director.v1 import experiments_pb2
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.wire.channels import sync_channel
from tests.acceptance.processes import Machine
from tests.acceptance.replicas import begun
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(240)

LEASE = 2.0


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that may fall."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("how", "length"),
    [
        pytest.param("crash", 0.0, marks=pytest.mark.system),
        pytest.param("crash", 60.0, marks=pytest.mark.campaign),
        pytest.param("stop", 60.0, marks=pytest.mark.campaign),
    ],
)
def test_database_that_falls_in_a_round_and_comes_back_costs_time_alone(
    machine: Machine, own_server: PostgresServer, how: str, length: float
) -> None:
    url = asyncio.run(own_server.create_database("federation"))
    schema.upgrade(url)
    federation = begun(machine, url, lease=LEASE)

    getattr(own_server, how)()
    if length:
        assert all(refusal(address) is grpc.StatusCode.UNAVAILABLE for address in federation.addresses)
    time.sleep(length)
    own_server.restart()
    federation.finish()

    assert federation.broken_promises() == []
    assert all(director.process.poll() is None for director in federation.directors.values())


def refusal(address: str) -> grpc.StatusCode | None:
    """Ask a director something; return why it does not answer."""
    request = experiments_pb2.GetExperimentRequest(experiment_name="north")
    with sync_channel(address, None, "ada") as channel:
        try:
            ExperimentServiceStub(channel).GetExperiment(request, timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return None
