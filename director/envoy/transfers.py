"""Streams of bytes to and from a director, which go on where they were cut off, at whichever director is up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from director.envoy.connections import Connection, Stubs
from director.errors import Corrupt, Unavailable
from director.v1.common_pb2 import DownloadPart, UploadWanted
from director.v1.rounds_pb2 import Contribution, SubmitContributionRequest
from director.wire.chunks import FileDownload, file_chunks

STALLED_AFTER_SECONDS = 300.0
DAMAGED_DOWNLOADS = 3

OpenStream = Callable[[Stubs, int], "grpc.aio.UnaryStreamCall[Any, DownloadPart]"]
"""Opens a download, from the chunk of a given index on."""

Wanted = asyncio.Queue[UploadWanted | None]
"""What the director asks for; None when it asks for nothing more."""


async def download(connection: Connection, stream: OpenStream, target: Path) -> str:
    """Download into a file, which appears when all of it is there and verified; return its SHA-256 in hexadecimal.

    Raises:
        Corrupt: it arrived damaged, time after time.
    """
    for _ in range(DAMAGED_DOWNLOADS - 1):
        try:
            return await _download(connection, stream, target)
        except Corrupt:
            continue
    return await _download(connection, stream, target)


async def _download(connection: Connection, stream: OpenStream, target: Path) -> str:
    with FileDownload(target) as file:

        async def go_on(to: Stubs) -> None:
            async with progressing() as gets_on:
                call = stream(to, file.next_index)
                try:
                    async for part in call:
                        gets_on()
                        file.take(part)
                finally:
                    call.cancel()
            if not file.complete:
                raise Unavailable("the director ended the download before its last byte")

        await connection.repeat(go_on)
        file.keep()
        assert file.download.header is not None
        return file.download.header.blob.sha256.hex()


async def contribute(connection: Connection, contribution: Contribution, update: Path | None) -> None:
    """Send a contribution, and as much of its update as the director asks for; when this returns it is stored.

    A director that ends the call while chunks are on their way may be misheard: gRPC puts "Internal error from Core" in
    the place of its status. That is repeated like any defect; what the director refuses, it refuses before it wants
    bytes, or after the last.
    """

    async def send(to: Stubs) -> None:
        wanted: Wanted = asyncio.Queue()
        accepted = False
        async with progressing() as gets_on:
            call = to.rounds.SubmitContribution(_requests(contribution, update, wanted, gets_on))
            try:
                async for answer in call:
                    gets_on()
                    accepted = answer.WhichOneof("part") == "accepted"
                    wanted.put_nowait(None if accepted else answer.wanted)
            finally:
                wanted.put_nowait(None)
                call.cancel()
        if not accepted:
            raise Unavailable("the director ended the call before it had accepted the contribution")

    await connection.repeat(send)


async def _requests(
    contribution: Contribution, update: Path | None, wanted: Wanted, gets_on: Callable[[], None]
) -> AsyncIterator[SubmitContributionRequest]:
    """Yield the contribution, then chunks of the update each time that the director wants them, until it is content."""
    yield SubmitContributionRequest(contribution=contribution)
    while (ask := await wanted.get()) is not None and update is not None:
        for chunk in file_chunks(update, ask.first_index, ask.chunk_bytes):
            yield SubmitContributionRequest(chunk=chunk)
            gets_on()


@asynccontextmanager
async def progressing() -> AsyncIterator[Callable[[], None]]:
    """Guard a stream, which has no deadline of its own; call what is yielded each time it gets on.

    Raises:
        Unavailable: it stood still for five minutes.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALLED_AFTER_SECONDS) as limit:
            yield lambda: limit.reschedule(loop.time() + STALLED_AFTER_SECONDS)
    except TimeoutError:
        raise Unavailable(f"the stream stood still for {STALLED_AFTER_SECONDS:.0f} seconds") from None
