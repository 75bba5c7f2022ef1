"""Bytes on their way into the stash: begun, received chunk by chunk, hashed, sealed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from director.domain.content import Content
from director.errors import Corrupt, DirectorError, InvalidArgument, Unavailable
from director.services.runtime import Runtime
from director.store import contents, stash
from director.store.stash import Blob, Upload

CHUNK_SECONDS = 30
Chunks = AsyncIterator[tuple[int, bytes]]
Check = Callable[[int, bytes], None]
"""Refuses a part of the bytes by raising; it is given the part's offset, and may be given the same part again."""


class Hash(Protocol):
    """A running digest."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the digest so far."""
        ...


async def begin(runtime: Runtime, upload_key: str, content: Content) -> Upload:
    """Begin an upload, or go on with it: the answer names the first chunk that is missing, if any.

    Raises:
        InvalidArgument: it is not announced as it should be.
        DiskFull: there is no room.
    """
    await runtime.disk.require()
    async with runtime.db.write("begin upload") as tx:
        return await stash.begin(tx, upload_key, content, chunk_bytes=runtime.settings.chunk_bytes)


async def receive(runtime: Runtime, upload: Upload, content: Content, chunks: Chunks, *, check: Check) -> None:
    """Store the missing chunks of an upload as they come, and seal it.

    Raises:
        InvalidArgument: a chunk is out of order, or has a wrong length.
        Corrupt: the whole does not match the announced digest; the next call begins the upload again.
        DiskFull: there is no room for the next chunk; those before it are kept.
        Whatever `check` raises; the upload is given up then.
    """
    if upload.missing is None:
        await seal(runtime, upload, content, check=check)
        return
    running = hashlib.sha256() if upload.missing == 0 else None
    count = stash.chunk_count(upload.size_bytes, upload.chunk_bytes)
    for expected in range(upload.missing, count):
        await runtime.disk.require()
        async with runtime.budget.hold(upload.chunk_bytes):
            number, data = await next_chunk(chunks)
            start = expected * upload.chunk_bytes
            length = min(upload.chunk_bytes, upload.size_bytes - start)
            if number != expected or len(data) != length:
                raise InvalidArgument(
                    f"chunk {number} of {len(data)} bytes came where chunk {expected} of {length} bytes was expected"
                )
            try:
                await asyncio.to_thread(inspect, data, start, check, running)
                if running is not None and number == count - 1:
                    compare(running, content)
            except DirectorError:
                await give_up(runtime, upload)
                raise
            async with runtime.db.write("put chunk") as tx:
                if not await stash.put(tx, upload.blob_id, number, data):
                    running = None  # another stream stored this chunk: what counts is in the rows
                elif running is not None and number == count - 1:
                    await stash.seal(tx, upload.blob_id, content.digest)
            runtime.disk.spend(len(data))
    if running is None:
        await seal(runtime, upload, content, check=check)


async def next_chunk(chunks: Chunks) -> tuple[int, bytes]:
    """Return the next chunk.

    Raises:
        InvalidArgument: the stream has ended.
        Unavailable: it did not come in time; a silent client may not hold memory that others wait for.
    """
    try:
        async with asyncio.timeout(CHUNK_SECONDS):
            return await anext(chunks)
    except StopAsyncIteration:
        raise InvalidArgument("the upload ended before its last chunk") from None
    except TimeoutError:
        raise Unavailable(f"no chunk came for {CHUNK_SECONDS} s; go on with the upload in another call") from None


def inspect(data: bytes, start: int, check: Check, running: Hash | None) -> None:
    """Check and hash a chunk; in a thread, since it takes a millisecond."""
    check(start, data)
    if running is not None:
        running.update(data)


async def give_up(runtime: Runtime, upload: Upload) -> None:
    """Give up a refused upload at once."""
    async with runtime.db.write("give up upload") as tx:
        await stash.give_up(tx, upload.blob_id)


async def seal(runtime: Runtime, upload: Upload, content: Content, *, check: Check) -> None:
    """Read an upload that came in several streams from its rows, check all of it, and declare it complete."""
    running = hashlib.sha256()
    stored = Blob(upload.blob_id, upload.size_bytes, upload.chunk_bytes, content.digest)
    try:
        async for number, data in contents.chunks(runtime.db, stored):
            await asyncio.to_thread(inspect, data, number * upload.chunk_bytes, check, running)
        compare(running, content)
    except (Corrupt, InvalidArgument):
        await give_up(runtime, upload)
        raise
    async with runtime.db.write("seal upload") as tx:
        await stash.seal(tx, upload.blob_id, content.digest)


def compare(running: Hash, content: Content) -> None:
    """Refuse bytes that are not those announced.

    Raises:
        Corrupt: their digest differs.
    """
    if running.hexdigest() != content.digest:
        raise Corrupt("the bytes received do not match the digest announced; upload them again")


def accept_anything(_start: int, _data: bytes) -> None:
    """Check nothing; the whole is checked later."""
