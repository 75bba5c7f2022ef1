"""The bytes of a stored blob: any part of them, and only that much in memory."""

from collections.abc import AsyncIterator

from sqlalchemy import Integer, bindparam, func, select

from director.errors import NotFound
from director.store.engine.database import Database, Transaction
from director.store.stash import Blob, chunk_count
from director.store.tables import blob_chunks

RANGE = (
    blob_chunks.c.blob_id == bindparam("blob"),
    blob_chunks.c.number >= bindparam("first"),
    blob_chunks.c.number < bindparam("last"),
)
CHUNKS = select(blob_chunks.c.data).where(*RANGE).order_by(blob_chunks.c.number)
PIECE = select(
    func.substr(blob_chunks.c.data, bindparam("skip", type_=Integer), bindparam("length", type_=Integer))
).where(*RANGE)


async def part(tx: Transaction, blob: Blob, start: int, stop: int) -> bytes:
    """Read a part of a blob.

    Units: start and stop are offsets in bytes.

    Raises:
        NotFound: the blob was dropped meanwhile.
    """
    first, last = start // blob.chunk_bytes, -(-stop // blob.chunk_bytes)
    skip = start - first * blob.chunk_bytes
    whole = start % blob.chunk_bytes == 0 and (stop % blob.chunk_bytes == 0 or stop == blob.size_bytes)
    wanted = {"blob": blob.id, "first": first, "last": last}
    # A part of a chunk is cut out by the database: uncompressed rows are read only where needed.
    cut = not whole and last - first == 1
    rows = (
        await tx.execute(PIECE, wanted | {"skip": skip + 1, "length": stop - start})
        if cut
        else await tx.execute(CHUNKS, wanted)
    )
    pieces = [bytes(row[0]) for row in rows.all()]
    found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if not whole and last - first > 1:
        found = found[skip : skip + stop - start]
    if len(found) != stop - start:
        raise NotFound(f"blob {blob.id} is no longer in the stash")
    return found


async def read(db: Database, blob: Blob, start: int, stop: int) -> bytes:
    """Read a part of a blob in a short transaction of its own; otherwise as `part`."""
    async with db.read() as tx:
        return await part(tx, blob, start, stop)


async def chunks(db: Database, blob: Blob, *, first: int = 0) -> AsyncIterator[tuple[int, bytes]]:
    """Yield a blob's chunks in order, one at a time.

    Raises:
        NotFound: the blob was dropped meanwhile.
    """
    for number in range(first, chunk_count(blob.size_bytes, blob.chunk_bytes)):
        start = number * blob.chunk_bytes
        yield number, await read(db, blob, start, min(start + blob.chunk_bytes, blob.size_bytes))
