"""The stash: bytes in chunks, received one by one, sealed once their digest is right, then taken by one owner row.

Until it is taken, a blob has an upload key that no other blob has, and an instant after which it is swept. A chunk is
inserted once and never changed. So two uploads of the same bytes at once are harmless, also on two replicas.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, bindparam, delete, literal_column, select, update
from sqlalchemy.exc import IntegrityError

from director.domain.content import Content
from director.domain.types import BlobId, BlobState
from director.errors import NotFound, Unavailable
from director.store.engine.database import Transaction
from director.store.tables import blob_chunks, blobs

UNCLAIMED = timedelta(hours=24)
"""How long an upload is kept after its last call."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A blob that is being received, or is complete.

    `missing` is its first chunk that is not there, None if all are.
    """

    blob_id: BlobId
    size_bytes: int
    chunk_bytes: int
    missing: int | None

    @property
    def missing_bytes(self) -> int:
        """How many bytes are still to come, at most."""
        return 0 if self.missing is None else self.size_bytes - self.missing * self.chunk_bytes


@dataclass(frozen=True, slots=True)
class Blob:
    """A run of bytes that is all there."""

    id: BlobId
    size_bytes: int
    chunk_bytes: int
    digest: str

    @property
    def content(self) -> Content:
        """Its identity."""
        return Content(self.size_bytes, self.digest)


def chunk_count(size_bytes: int, chunk_bytes: int) -> int:
    """Return how many chunks a run of bytes has; an empty one has none."""
    return -(-size_bytes // chunk_bytes)


# As the partial index says it; with a bound parameter in place of the literal it would not be used.
UNTAKEN = blobs.c.state != literal_column(f"'{BlobState.TAKEN}'")
OF_UPLOAD_KEY = select(blobs).where(blobs.c.upload_key == bindparam("wanted"), UNTAKEN)
LOCK_UPLOAD_KEY = OF_UPLOAD_KEY.with_for_update()
COMPLETE = OF_UPLOAD_KEY.where(blobs.c.state == BlobState.COMPLETE)
TAKEABLE = (
    COMPLETE.where(blobs.c.digest == bindparam("content_digest"), blobs.c.size_bytes == bindparam("content_bytes"))
    .with_only_columns(blobs.c.id)
    .with_for_update(key_share=True, skip_locked=True)
)
STORED = select(blobs).where(blobs.c.id == bindparam("blob"), blobs.c.state != BlobState.RECEIVING)
CHUNK_NUMBERS = (
    select(blob_chunks.c.number).where(blob_chunks.c.blob_id == bindparam("blob")).order_by(blob_chunks.c.number)
)
EXTEND = update(blobs).where(blobs.c.id == bindparam("blob")).values(expires_at=bindparam("until"))
GIVE_UP = (
    update(blobs)
    .where(blobs.c.id == bindparam("blob"), UNTAKEN)
    .values(upload_key=None, expires_at=bindparam("instant"))
)
DISCARD = (
    update(blobs)
    .where(blobs.c.upload_key == bindparam("wanted"), UNTAKEN)
    .values(upload_key=None, expires_at=bindparam("instant"))
)
# The lock waits for chunks of other streams on their way, which hold the blob by their foreign key.
SEALABLE = (
    select(blobs.c.id)
    .where(blobs.c.id == bindparam("blob"), UNTAKEN, blobs.c.upload_key.is_not(None))
    .with_for_update()
)
SEAL = (
    update(blobs)
    .where(blobs.c.id == SEALABLE.scalar_subquery())
    .values(state=BlobState.COMPLETE, digest=bindparam("content_digest"))
    .returning(*blobs.c)
)
TAKE = (
    update(blobs)
    .where(blobs.c.id == TAKEABLE.scalar_subquery())
    .values(state=BlobState.TAKEN, expires_at=None)
    .returning(*blobs.c)
)
DROP = (
    update(blobs)
    .where(blobs.c.id.in_(bindparam("blobs", expanding=True)), blobs.c.state == BlobState.TAKEN)
    .values(state=BlobState.COMPLETE, upload_key=None, expires_at=bindparam("instant"))
)
EXPIRED = (
    select(blobs.c.id)
    .where(blobs.c.expires_at.is_not(None), blobs.c.expires_at <= bindparam("instant"))
    .order_by(blobs.c.expires_at)
    .limit(1)
    .with_for_update(skip_locked=True)
)


async def begin(tx: Transaction, upload_key: str, content: Content, *, chunk_bytes: int) -> Upload:
    """Begin an upload, or go on with the one of this key; one with other content is given up for it.

    Raises:
        Unavailable: the same upload began or ended elsewhere at this moment.
    """
    row = await beginning(tx, upload_key, content.size_bytes, chunk_bytes=chunk_bytes, digest=content.digest)
    added = await tx.add_if_absent(blobs, row, "id")
    if added is None:
        held = await lock_upload_key(tx, upload_key)
        if (held.digest, held.size_bytes) == (content.digest, content.size_bytes):
            return await go_on(tx, held)
        await give_up(tx, BlobId(held.id))
        added = await add(tx, row)
    return Upload(BlobId(added.id), content.size_bytes, chunk_bytes, 0 if content.size_bytes else None)


async def begin_new(tx: Transaction, upload_key: str, size_bytes: int, *, chunk_bytes: int) -> Upload:
    """Begin a blob whose digest is known only at its end; the previous blob of this key is given up.

    Raises:
        Unavailable: as for `begin`.
    """
    row = await beginning(tx, upload_key, size_bytes, chunk_bytes=chunk_bytes, digest=None)
    added = await tx.add_if_absent(blobs, row, "id")
    if added is None:
        await give_up(tx, BlobId((await lock_upload_key(tx, upload_key)).id))
        added = await add(tx, row)
    return Upload(BlobId(added.id), size_bytes, chunk_bytes, 0)


async def beginning(
    tx: Transaction, upload_key: str, size_bytes: int, *, chunk_bytes: int, digest: str | None
) -> dict[str, Any]:
    """Return the row of a blob that receives its chunks from now on."""
    now = await tx.now()
    return {
        "upload_key": upload_key,
        "digest": digest,
        "size_bytes": size_bytes,
        "chunk_bytes": chunk_bytes,
        "state": BlobState.RECEIVING,
        "created_at": now,
        "expires_at": now + UNCLAIMED,
    }


async def go_on(tx: Transaction, held: Row[Any]) -> Upload:
    """Go on with an upload, and extend its expiry."""
    await tx.execute(EXTEND, {"blob": held.id, "until": await tx.now() + UNCLAIMED})
    complete = held.state is BlobState.COMPLETE
    missing = None if complete else await first_missing(tx, held.id, chunk_count(held.size_bytes, held.chunk_bytes))
    return Upload(BlobId(held.id), held.size_bytes, held.chunk_bytes, missing)


async def lock_upload_key(tx: Transaction, upload_key: str) -> Row[Any]:
    """Lock the blob that holds an upload key.

    Raises:
        Unavailable: it has just lost the key.
    """
    held = (await tx.execute(LOCK_UPLOAD_KEY, {"wanted": upload_key})).first()
    if held is None:
        raise Unavailable("the same upload ended elsewhere at this moment; repeat the call")
    return held


async def add(tx: Transaction, row: Mapping[str, Any]) -> Row[Any]:
    """Insert a blob after its key's previous holder was given up.

    Raises:
        Unavailable: the same upload began elsewhere at this moment.
    """
    added = await tx.add_if_absent(blobs, row, "id")
    if added is None:
        raise Unavailable("the same upload began elsewhere at this moment; repeat the call")
    return added


async def give_up(tx: Transaction, blob_id: BlobId) -> None:
    """Take the upload key from a blob, and let it expire at once."""
    await tx.execute(GIVE_UP, {"blob": blob_id, "instant": await tx.now()})


async def discard(tx: Transaction, upload_key: str) -> None:
    """Give up the blob that holds an upload key."""
    await tx.execute(DISCARD, {"wanted": upload_key, "instant": await tx.now()})


async def first_missing(tx: Transaction, blob_id: BlobId, count: int) -> int | None:
    """Return the first chunk that is not there, or None."""
    expected = 0
    for row in (await tx.execute(CHUNK_NUMBERS, {"blob": blob_id})).all():
        if row.number != expected:
            break
        expected += 1
    return expected if expected < count else None


async def put(tx: Transaction, blob_id: BlobId, number: int, data: bytes) -> bool:
    """Store a chunk; one that is there already stays as it is, and False says so.

    Raises:
        Unavailable: the blob was given up or swept meanwhile; begin the upload again.
    """
    row = {"blob_id": blob_id, "number": number, "data": data}
    try:
        return await tx.add_if_absent(blob_chunks, row, "number") is not None
    except IntegrityError as error:
        raise Unavailable("the upload was replaced by another one; begin it again") from error


async def seal(tx: Transaction, blob_id: BlobId, digest: str) -> Blob:
    """Declare a blob complete. The caller has hashed the chunks and found what was announced.

    Raises:
        Unavailable: the blob was given up or swept meanwhile.
    """
    row = (await tx.execute(SEAL, {"blob": blob_id, "content_digest": digest})).first()
    if row is None:
        raise Unavailable("the upload was replaced by another one; begin it again")
    return blob_of(row)


async def take(tx: Transaction, upload_key: str, content: Content) -> Blob:
    """Give a complete blob to the row that the caller inserts in this transaction.

    Raises:
        Unavailable: it is not there, or somebody is at it: send it again.
    """
    wanted = {"wanted": upload_key, "content_digest": content.digest, "content_bytes": content.size_bytes}
    row = (await tx.execute(TAKE, wanted)).first()
    if row is None:
        raise Unavailable("the upload is not complete; send it again")
    return blob_of(row)


async def find(tx: Transaction, upload_key: str) -> Blob:
    """Return the complete blob of an upload key.

    Raises:
        Unavailable: it is not there: send it again.
    """
    row = (await tx.execute(COMPLETE, {"wanted": upload_key})).first()
    if row is None:
        raise Unavailable("the upload is not complete; send it again")
    return blob_of(row)


async def drop(tx: Transaction, *blob_ids: BlobId, grace: timedelta = timedelta(0)) -> None:
    """Let taken blobs expire, after a grace for those who are reading them. The caller clears the references too."""
    if blob_ids:
        await tx.execute(DROP, {"blobs": list(blob_ids), "instant": await tx.now() + grace})


async def sweep_one(tx: Transaction) -> bool:
    """Delete one expired blob and its chunks; False when there is none."""
    row = (await tx.execute(EXPIRED, {"instant": await tx.now()})).first()
    if row is None:
        return False
    await tx.execute(delete(blob_chunks).where(blob_chunks.c.blob_id == row.id))
    await tx.execute(delete(blobs).where(blobs.c.id == row.id))
    return True


async def get(tx: Transaction, blob_id: BlobId) -> Blob:
    """Return a blob that is all there.

    Raises:
        NotFound: it is not, or not any more.
    """
    row = (await tx.execute(STORED, {"blob": blob_id})).first()
    if row is None:
        raise NotFound(f"blob {blob_id} is not in the stash")
    return blob_of(row)


def blob_of(row: Row[Any]) -> Blob:
    """Read a row."""
    return Blob(BlobId(row.id), row.size_bytes, row.chunk_bytes, row.digest)
