"""Bytes out of the stash, as messages: a header, the manifest of a model, then the chunks, one in memory at a time."""

from collections.abc import AsyncIterator

from director.domain.tensors import Manifest
from director.errors import InvalidArgument
from director.services.runtime import Runtime
from director.store import contents, stash
from director.store.stash import Blob
from director.v1 import common_pb2
from director.wire import codec
from director.wire.chunks import manifest_chunks


async def archive_parts(runtime: Runtime, blob: Blob, *, first_index: int) -> AsyncIterator[common_pb2.DownloadPart]:
    """Yield an archive from a chunk on.

    Raises:
        InvalidArgument: it has no such chunk.
    """
    header = common_pb2.DownloadHeader(blob=codec.write_content(blob.content), chunk_bytes=blob.chunk_bytes)
    check_first(blob, first_index)
    yield common_pb2.DownloadPart(header=header)
    async for part in chunk_parts(runtime, blob, first_index=first_index):
        yield part


async def model_parts(
    runtime: Runtime, blob: Blob, *, manifest: Manifest, number: int, first_index: int, held: bytes
) -> AsyncIterator[common_pb2.DownloadPart]:
    """Yield a model: its manifest, unless the caller holds the one of this SHA-256, and its payload from a chunk on.

    Raises:
        InvalidArgument: it has no such chunk.
    """
    header = common_pb2.DownloadHeader(
        blob=codec.write_content(blob.content),
        chunk_bytes=blob.chunk_bytes,
        manifest=codec.write_content(manifest.content),
        model_number=number,
    )
    check_first(blob, first_index)
    yield common_pb2.DownloadPart(header=header)
    if held != manifest.content.sha256:
        for chunk in manifest_chunks(manifest):
            yield common_pb2.DownloadPart(manifest_chunk=chunk)
    async for part in chunk_parts(runtime, blob, first_index=first_index):
        yield part


async def chunk_parts(runtime: Runtime, blob: Blob, *, first_index: int) -> AsyncIterator[common_pb2.DownloadPart]:
    """Yield a blob's chunks, each within the budget of bytes."""
    for index in range(first_index, stash.chunk_count(blob.size_bytes, blob.chunk_bytes)):
        start = index * blob.chunk_bytes
        async with runtime.budget.hold(blob.chunk_bytes):
            data = await contents.read(runtime.db, blob, start, min(start + blob.chunk_bytes, blob.size_bytes))
            part = common_pb2.DownloadPart(chunk=common_pb2.Chunk(index=index, data=data))
        yield part


def check_first(blob: Blob, first_index: int) -> None:
    """Refuse a chunk to begin with that a blob does not have.

    Raises:
        InvalidArgument: it does not.
    """
    if not 0 <= first_index <= stash.chunk_count(blob.size_bytes, blob.chunk_bytes):
        raise InvalidArgument(f"there is no chunk {first_index}")
