"""What arrives in a request stream: a first message, then chunks of bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from director.errors import InvalidArgument, Unavailable
from director.services.uploads import CHUNK_SECONDS, Chunks
from director.store.stash import Upload
from director.v1 import common_pb2

Message = TypeVar("Message")


async def next_message(requests: AsyncIterator[Message], what: str) -> Message:
    """Return the next message of a stream.

    Raises:
        InvalidArgument: the stream has ended.
        Unavailable: the message did not come in time.
    """
    try:
        async with asyncio.timeout(CHUNK_SECONDS):
            return await anext(requests)
    except StopAsyncIteration:
        raise InvalidArgument(f"the stream ended before {what}") from None
    except TimeoutError:
        raise Unavailable(f"{what} did not come for {CHUNK_SECONDS} s; call again") from None


async def chunks(requests: AsyncIterator[Message], chunk_of: Callable[[Message], common_pb2.Chunk | None]) -> Chunks:
    """Yield the chunks of a stream.

    Raises:
        InvalidArgument: a message holds something else.
    """
    async for message in requests:
        chunk = chunk_of(message)
        if chunk is None:
            raise InvalidArgument("a chunk was expected")
        yield chunk.index, chunk.data


def wanted(upload: Upload) -> common_pb2.UploadWanted:
    """Ask for what is missing of an upload."""
    return common_pb2.UploadWanted(first_index=upload.missing or 0, chunk_bytes=upload.chunk_bytes)
