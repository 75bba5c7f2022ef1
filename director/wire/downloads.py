"""Bytes out of the stash, as messages: a header, then the chunks, one in memory at a time."""

from collections.abc import AsyncIterator

from director.domain.tensors import Manifest
from director.errors import InvalidArgument
from director.services.runtime import Runtime
from director.store import contents, stash
from director.store.stash import Blob
from director.v1 import common_pb2
from director.wire import codec
from director.wire.chunks import chunk, manifest_message


async def parts(
    runtime: Runtime, blob: Blob, *, first_index: int, manifest: Manifest | None = None, number: int = 0
) -> AsyncIterator[common_pb2.DownloadPart]:
    """Yield a blob from a chunk on; for a model with its manifest and number.

    Raises:
        InvalidArgument: the first chunk is none.
    """
    if not 0 <= first_index <= stash.chunk_count(blob.size_bytes, blob.chunk_bytes):
        raise InvalidArgument(f"there is no chunk {first_index}")
    header = common_pb2.DownloadHeader(
        blob=codec.blob(blob.content),
        chunk_bytes=blob.chunk_bytes,
        manifest=manifest_message(manifest) if manifest is not None else None,
        model_number=number,
    )
    yield common_pb2.DownloadPart(header=header)
    for index in range(first_index, stash.chunk_count(blob.size_bytes, blob.chunk_bytes)):
        start = index * blob.chunk_bytes
        async with runtime.budget.hold(blob.chunk_bytes):
            data = await contents.read(runtime.db, blob, start, min(start + blob.chunk_bytes, blob.size_bytes))
            part = common_pb2.DownloadPart(chunk=chunk(index, data))
        yield part
