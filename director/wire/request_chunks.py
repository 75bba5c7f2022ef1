"""Bytes into the stash: the chunks of a request stream, checked one by one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from director.errors import InvalidArgument, Unavailable
from director.services.uploads import CHUNK_SECONDS, Chunks
from director.store.stash import Upload
from director.v1 import common_pb2
from director.wire.chunks import checked

Message = TypeVar("Message")


async def first(requests: AsyncIterator[Message], what: str) -> Message:
    """Return the first message of a stream.

    Raises:
        InvalidArgument: there is none.
        Unavailable: it did not come in time.
    """
    try:
        async with asyncio.timeout(CHUNK_SECONDS):
            return await anext(requests)
    except StopAsyncIteration:
        raise InvalidArgument(f"the stream is empty; its first message is the {what}") from None
    except TimeoutError:
        raise Unavailable(f"no {what} came for {CHUNK_SECONDS} s; call again") from None


async def chunks(requests: AsyncIterator[Message], chunk_of: Callable[[Message], common_pb2.Chunk | None]) -> Chunks:
    """Yield the chunks of a stream, each checked against its digest.

    Raises:
        InvalidArgument: a message is no chunk.
        Corrupt: a digest does not match.
    """
    async for message in requests:
        chunk = chunk_of(message)
        if chunk is None:
            raise InvalidArgument("a chunk was expected")
        yield chunk.index, await asyncio.to_thread(checked, chunk)


def wanted(upload: Upload) -> common_pb2.UploadWanted | None:
    """Ask for what is missing of an upload; None if nothing is."""
    if upload.missing is None:
        return None
    return common_pb2.UploadWanted(first_index=upload.missing, chunk_bytes=upload.chunk_bytes)
