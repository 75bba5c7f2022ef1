"""Copying chunks from one blob into another, inside the database."""

from functools import cache

from sqlalchemy import BigInteger, Executable, bindparam, func, select
from sqlalchemy.exc import IntegrityError

from director.domain.types import BlobId
from director.errors import Unavailable
from director.store.engine.database import Transaction, dialect_insert
from director.store.stash import Blob
from director.store.tables import blob_chunks

HELD_CHUNKS = select(func.count()).where(
    blob_chunks.c.blob_id == bindparam("blob"),
    blob_chunks.c.number >= bindparam("first"),
    blob_chunks.c.number < bindparam("last"),
)


async def copy(tx: Transaction, source: Blob, blob_id: BlobId, *, first: int, last: int) -> None:
    """Copy chunks of a blob into another one that is being received; those that are there already stay as they are.

    Units: first and last are numbers of chunks; the last one is left out.

    Raises:
        Unavailable: the source was dropped meanwhile, or the target was given up.
    """
    which = {"source": source.id, "target": blob_id, "first": first, "last": last}
    try:
        await tx.execute(copy_chunks(tx.postgresql), which)
    except IntegrityError as error:
        raise Unavailable("the upload was replaced by another one; begin it again") from error
    held = (await tx.execute(HELD_CHUNKS, {"blob": blob_id, "first": first, "last": last})).scalar_one()
    if held != last - first:
        raise Unavailable("the model to copy is no longer there; repeat the call")


@cache
def copy_chunks(for_postgresql: bool) -> Executable:
    """Return the statement that copies chunks."""
    chosen = (
        select(bindparam("target", type_=BigInteger), blob_chunks.c.number, blob_chunks.c.data)
        .where(
            blob_chunks.c.blob_id == bindparam("source"),
            blob_chunks.c.number >= bindparam("first"),
            blob_chunks.c.number < bindparam("last"),
        )
        .order_by(blob_chunks.c.number)
    )
    copied = dialect_insert(blob_chunks, for_postgresql).from_select(["blob_id", "number", "data"], chosen)
    return copied.on_conflict_do_nothing()
