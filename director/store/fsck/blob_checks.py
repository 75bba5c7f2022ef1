"""The stash: who owns which blob, and whether its bytes are those it was sealed with."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Integer, Row, bindparam, case, func, literal, null, select, union_all

from director.domain.types import BlobState
from director.store.engine.database import Transaction
from director.store.fsck.findings import A_PAGE, Check, Finding, FindingsPage
from director.store.stash import Blob, blob_of, chunk_count
from director.store.tables import blob_chunks, blobs, contributions, experiments, models

PAGE = 500
MANY = 1 << 62
"""Above every id."""

B, C, E, K, M = blobs.c, blob_chunks.c, experiments.c, contributions.c, models.c
BEHIND = select(blobs).where(B.id > bindparam("after")).order_by(B.id).limit(A_PAGE)
WHOLE = BEHIND.where(B.state != BlobState.RECEIVING)


def references(column: Any, kind: str, experiment: Any, number: Any, digest: Any, size: Any) -> Any:
    """Select who refers to blobs through a column; its partial index finds them by the blob's id."""
    what = literal(kind).label("kind"), experiment.label("experiment"), number.label("number")
    content = digest.label("digest"), size.label("size_bytes")
    return select(column.label("blob_id"), *what, *content).where(
        column > bindparam("after", type_=BigInteger), column <= bindparam("last", type_=BigInteger)
    )


NOTHING = null().cast(Integer)
OWNERS = union_all(
    references(E.archive_blob_id, "the archive", E.id, NOTHING, E.archive_digest, NOTHING),
    references(K.blob_id, "an update of round", K.experiment_id, K.round, K.digest, NOTHING),
    references(M.payload_blob_id, "model", M.experiment_id, M.number, M.digest, M.size_bytes),
    references(M.state_blob_id, "the server state of model", M.experiment_id, M.number, null(), NOTHING),
)
LENGTH = case(
    (B.size_bytes - C.number * B.chunk_bytes < B.chunk_bytes, B.size_bytes - C.number * B.chunk_bytes),
    else_=B.chunk_bytes,
)
"""How long a chunk should be."""
LAYOUT = (
    select(
        func.count(C.number).label("chunks"),
        func.min(C.number).label("first"),
        func.max(C.number).label("last"),
        func.coalesce(func.sum(case((func.length(C.data) != LENGTH, 1), else_=0)), 0).label("wrong"),
    )
    .select_from(blobs.outerjoin(blob_chunks, C.blob_id == B.id))
    .where(B.id == bindparam("blob"))
    .group_by(B.id)
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A row that refers to a blob."""

    text: str
    digest: str | None
    size_bytes: int | None


async def owners(tx: Transaction, after: int | None) -> FindingsPage:
    """Compare blobs with the rows that refer to them."""
    rows = (await tx.execute(BEHIND, {"after": after or 0, "page": PAGE})).all()
    last = rows[-1].id if len(rows) == PAGE else MANY
    found: defaultdict[int, list[Owner]] = defaultdict(list)
    for row in await tx.execute(OWNERS, {"after": after or 0, "last": last}):
        found[row.blob_id].append(owner_of(row))
    findings = [each for row in rows for each in compare(row, found.pop(row.id, []))]
    lost = [
        Finding(Check.BLOB_OWNER, f"blob {blob_id}: {owner.text} refers to it, and it is not there")
        for blob_id, owners in sorted(found.items())
        for owner in owners
    ]
    return FindingsPage(findings + lost, None if last == MANY else last)


def owner_of(row: Row[Any]) -> Owner:
    """Read a row of `OWNERS`."""
    number = "" if row.number is None else f" {row.number}"
    return Owner(f"{row.kind}{number} of experiment {row.experiment}", row.digest, row.size_bytes)


def compare(blob: Row[Any], owners: list[Owner]) -> list[Finding]:
    """Compare a blob with its owners."""
    named = " and ".join(owner.text for owner in owners)
    if blob.state is not BlobState.TAKEN:
        wrong = f"it is {blob.state}, but {named} refers to it" if owners else None
    elif len(owners) > 1:
        wrong = f"it is taken by more than one row: {named}"
    else:
        wrong = None if owners else "it is taken, but by no row"
    if wrong is not None:
        return [Finding(Check.BLOB_OWNER, f"blob {blob.id}: {wrong}")]
    return [
        Finding(Check.BLOB_DIGEST, f"blob {blob.id}: its content is not the one of {owner.text}")
        for owner in owners
        if owner.digest not in (None, blob.digest) or owner.size_bytes not in (None, blob.size_bytes)
    ]


async def whole(tx: Transaction, after: int) -> list[Blob]:
    """Return the next blobs that are all there."""
    return [blob_of(row) for row in (await tx.execute(WHOLE, {"after": after, "page": PAGE})).all()]


async def layout(tx: Transaction, blob: Blob) -> list[Finding]:
    """Check the numbers and lengths of a blob's chunks, without reading their bytes."""
    row = (await tx.execute(LAYOUT, {"blob": blob.id})).first()
    if row is None:
        return []  # swept since
    count = chunk_count(blob.size_bytes, blob.chunk_bytes)
    if (row.chunks, row.first, row.last) != ((count, 0, count - 1) if count else (0, None, None)):
        there = f"{row.chunks} chunks, numbered {row.first} to {row.last}" if row.chunks else "none"
        return [Finding(Check.BLOB_CHUNKS, f"blob {blob.id}: {count} chunks are expected, there are {there}")]
    if row.wrong:
        return [Finding(Check.BLOB_CHUNKS, f"blob {blob.id}: {row.wrong} of its chunks have a wrong length")]
    return []


def damaged(blob: Blob, digest: str) -> list[Finding]:
    """Compare the digest of a blob's bytes with the one that it was sealed with."""
    if digest == blob.digest:
        return []
    return [Finding(Check.BLOB_BYTES, f"blob {blob.id}: its bytes have the digest {digest}, not {blob.digest}")]
