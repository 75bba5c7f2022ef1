"""Streams of bytes to and from a director; one that breaks off goes on where it was, at any director that is up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from director.concurrency import uninterrupted
from director.domain.tensors import Manifest
from director.envoy.connections import Connection, Stubs
from director.errors import Corrupt, Unavailable
from director.v1.common_pb2 import DownloadPart, UploadWanted
from director.v1.rounds_pb2 import Contribution, SubmitContributionRequest
from director.wire.chunks import Download, FileDownload, file_chunks

STALLED_AFTER_SECONDS = 300.0
DAMAGED_DOWNLOADS = 3

OpenStream = Callable[[Stubs, Download], "grpc.aio.UnaryStreamCall[Any, DownloadPart]"]
"""Opens a stream that goes on with a download."""

Wanted = asyncio.Queue[UploadWanted | None]
"""What the director asks for; None when it asks for nothing more."""


async def download(
    connection: Connection, stream: OpenStream, target: Path, manifest: Manifest | None = None
) -> Download:
    """Download into a file, which appears when all bytes are there and verified.

    Raises:
        Corrupt: the bytes arrived damaged in three attempts.
    """
    for _ in range(DAMAGED_DOWNLOADS - 1):
        try:
            return await _download(connection, stream, target, manifest)
        except Corrupt:
            continue
    return await _download(connection, stream, target, manifest)


async def _download(connection: Connection, stream: OpenStream, target: Path, manifest: Manifest | None) -> Download:
    with FileDownload(target, manifest=manifest) as file:

        async def go_on(to: Stubs) -> None:
            async with progressing() as gets_on:
                call = stream(to, file.download)
                try:
                    async for part in call:
                        gets_on()
                        await _take(file, part)
                finally:
                    call.cancel()
            if not file.complete:
                raise Unavailable("the director ended the download before its last byte")

        await connection.repeat(go_on)
        file.keep()
        return file.download


async def _take(file: FileDownload, part: DownloadPart) -> None:
    """Store a part; the last chunk of a manifest in a thread, since 100,000 tensors take more than a second to read."""
    if part.HasField("manifest_chunk"):
        await uninterrupted(asyncio.to_thread(file.take, part))
    else:
        file.take(part)


async def contribute(connection: Connection, contribution: Contribution, update: Path | None) -> None:
    """Send a contribution, and as much of its update as the director asks for; when this returns it is stored.

    When a director ends the call while chunks are on their way, gRPC may report "Internal error from Core" instead of
    the director's status. Such an error is repeated as a defect is. No refusal is lost by that: the director refuses
    before it asks for bytes, or after the last one.
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
    """Yield the contribution, then chunks of the update each time that the director asks for them."""
    yield SubmitContributionRequest(contribution=contribution)
    while (ask := await wanted.get()) is not None and update is not None:
        for chunk in file_chunks(update, ask.first_index, ask.chunk_bytes):
            yield SubmitContributionRequest(chunk=chunk)
            gets_on()


@asynccontextmanager
async def progressing() -> AsyncIterator[Callable[[], None]]:
    """Guard a stream, which has no deadline of its own; call what is yielded each time that the stream makes progress.

    Raises:
        Unavailable: it made no progress for five minutes.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(STALLED_AFTER_SECONDS) as limit:
            yield lambda: limit.reschedule(loop.time() + STALLED_AFTER_SECONDS)
    except TimeoutError:
        raise Unavailable(f"the stream made no progress for {STALLED_AFTER_SECONDS:.0f} seconds") from None
