"""Words for calls over a real channel: who makes them, message by message where they are streams."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest

from director.errors import DirectorError
from director.v1 import (
    common_pb2,
    envoys_pb2_grpc,
    experiments_pb2,
    experiments_pb2_grpc,
    federation_pb2_grpc,
    rounds_pb2,
    rounds_pb2_grpc,
)
from director.wire import codec
from director.wire.channels import aio_channel
from director.wire.statuses import from_rpc_error
from tests.tables import blob_rows
from tests.world import World, content_of

T = TypeVar("T")

SETTINGS: dict[str, Any] = {"operators": ("operator",), "poll": timedelta(seconds=60)}
"""Nothing is looked at again within a test: what does not wake is not answered."""

on_both_engines = pytest.mark.parametrize("engine_kind", ["sqlite", "postgresql"], indirect=True)

AT_ONCE = 5.0
"""Seconds, on a busy machine: far less than a poll or a long poll."""

LARGEST_MESSAGE = (4 << 20) + (64 << 10)
"""Bytes of a message, at most, as the protos say."""


class Client:
    """Somebody who calls."""

    def __init__(self, port: int, name: str) -> None:
        """Open a channel."""
        address = f"127.0.0.1:{port}"
        # gRPC's interceptors do not go together with writing message by message.
        self._channel, self._plain = aio_channel(address, None, name), aio_channel(address, None, None)
        self._header = (("client_id", name),)
        self.envoys = envoys_pb2_grpc.EnvoyServiceStub(self._channel)
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(self._channel)
        self.federation = federation_pb2_grpc.FederationServiceStub(self._channel)
        self.rounds = rounds_pb2_grpc.RoundServiceStub(self._channel)

    def submit(self) -> "Conversation":
        """Begin to submit an experiment."""
        call = experiments_pb2_grpc.ExperimentServiceStub(self._plain).SubmitExperiment(metadata=self._header)
        return Conversation(call, experiments_pb2.SubmitExperimentRequest)

    def contribute(self) -> "Conversation":
        """Begin to hand in a result."""
        call = rounds_pb2_grpc.RoundServiceStub(self._plain).SubmitContribution(metadata=self._header)
        return Conversation(call, rounds_pb2.SubmitContributionRequest)

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()
        await self._plain.close()


class Conversation:
    """A stream in both directions."""

    def __init__(self, call: Any, message: Any) -> None:
        """Begin to speak."""
        self._call = call
        self._message = message

    async def say(self, **part: Any) -> None:
        """Say one message."""
        await self._call.write(self._message(**part))

    async def hear(self) -> Any:
        """Return the next answer; None after the last."""
        answer = await self._call.read()
        return None if answer is grpc.aio.EOF else answer

    async def say_chunks(self, data: bytes, wanted: common_pb2.UploadWanted, *, but: int = 0) -> None:
        """Say the chunks that are wanted, but for so many at the end."""
        size = wanted.chunk_bytes
        for index in range(wanted.first_index, -(-len(data) // size) - but):
            await self.say(chunk=chunk_of(data, index, size))

    async def say_no_more(self) -> None:
        """End one's own part."""
        await self._call.done_writing()

    def hang_up(self) -> None:
        """Break off."""
        self._call.cancel()


async def gather(stream: AsyncIterator[T]) -> list[T]:
    """Return all answers of a stream."""
    return [answer async for answer in stream]


@contextmanager
def refused(kind: type[DirectorError], match: str = "") -> Iterator[None]:
    """Expect a call to end with an error of this very class."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield
    error = from_rpc_error(caught.value)
    assert type(error) is kind, f"{type(error).__name__}: {error}"
    assert re.search(match, str(error)), error


def blob_of(data: bytes) -> common_pb2.BlobInfo:
    """Announce bytes."""
    return codec.write_content(content_of(data))


def chunk_of(data: bytes, index: int, size: int) -> common_pb2.Chunk:
    """Return one of the chunks of so many bytes that data are cut into."""
    return common_pb2.Chunk(index=index, data=data[index * size : (index + 1) * size])


async def until_stored(federation: World, *, chunks: int) -> None:
    """Wait until so many chunks are in the stash."""
    async with asyncio.timeout(AT_ONCE):
        while await blob_rows.chunk_count(federation.db) < chunks:
            await asyncio.sleep(0.01)


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait in a thread until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)
