"""An experiment is named by its uid, in every RPC about it; only GetExperiment also takes a name."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from director.errors import ExperimentNotFound, InvalidArgument
from director.v1 import experiments_pb2
from director.wire.channels import aio_channel
from tests.wire.calls import Client, gather, refused
from tests.wire.golden import FILES
from tests.world import World

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
NOT_UIDS = ["experiment", "", "0" * 31, "0" * 33, "g" * 32, " " + "0" * 31, "０" * 32]


def first_message(method: MethodDescriptor) -> tuple[Message, Any]:
    """Return the first message of a call, and the part of it that may say which experiment is meant."""
    first: Any = GetMessageClass(method.input_type)()
    return first, first.contribution if method.name == "SubmitContribution" else first


ABOUT = [
    name for name, method in METHODS.items() if "experiment_uid" in first_message(method)[1].DESCRIPTOR.fields_by_name
]
"""The methods about an experiment."""


def test_methods_about_an_experiment_are_found():
    assert len(ABOUT) == 13
    assert {"GetExperiment", "PollTasks", "SubmitContribution", "DownloadArchive", "ListCollaborators"} <= {*ABOUT}


@pytest.fixture
async def experiment(federation: World) -> str:
    """The uid of an experiment by the name of "experiment"."""
    await federation.register("a", "b")
    return (await federation.submit()).uid


async def call(port: int, name: str, uid: str) -> None:
    """Call a method about an experiment as the envoy and user "a"."""
    method = METHODS[name]
    first, named = first_message(method)
    named.experiment_uid = uid
    if "envoy" in named.DESCRIPTOR.fields_by_name:
        named.envoy = "a"
    path, read = f"/{method.containing_service.full_name}/{name}", GetMessageClass(method.output_type).FromString
    async with aio_channel(f"127.0.0.1:{port}", None, "a") as channel:
        how: dict[str, Any] = {"request_serializer": type(first).SerializeToString, "response_deserializer": read}
        if method.client_streaming:
            await gather(channel.stream_stream(path, **how)(iter([first])))
        elif method.server_streaming:
            await gather(channel.unary_stream(path, **how)(first))
        else:
            await channel.unary_unary(path, **how)(first)


@pytest.mark.parametrize("name", ABOUT)
async def test_experiment_is_not_named_by_anything_but_its_uid(experiment, port, name):
    for other in NOT_UIDS:
        with refused(InvalidArgument, "experiment_uid is .* 32 hexadecimal digits"):
            await call(port, name, other)


@pytest.mark.parametrize("name", ABOUT)
async def test_uid_that_no_experiment_has_is_not_found(experiment, port, name):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(port, name, "0" * 32)

    expected = {"ReviewExperiment": "INVALID_ARGUMENT", "DownloadModel": "INVALID_ARGUMENT"}  # they say too little
    assert caught.value.code().name == expected.get(name, "NOT_FOUND")


@pytest.fixture
def get(clients: Any) -> Any:
    """Gets an experiment."""
    client: Client = clients("researcher")
    return lambda **which: client.experiments.GetExperiment(experiments_pb2.GetExperimentRequest(**which))


async def test_experiment_is_got_by_its_uid_or_by_its_name(experiment, get):
    by_uid, by_name = await get(experiment_uid=experiment), await get(experiment_name="experiment")

    assert by_uid == by_name
    assert (by_uid.uid, by_uid.name) == (experiment, "experiment")
    assert len(experiment) == 32


async def test_uid_may_be_written_in_capitals(experiment, get):
    assert (await get(experiment_uid=experiment.upper())).uid == experiment


async def test_experiment_that_is_not_named_is_refused(experiment, get):
    with refused(InvalidArgument, "experiment_uid"):
        await get()
    with refused(ExperimentNotFound):
        await get(experiment_name="")
    with refused(ExperimentNotFound):
        await get(experiment_name="another")
