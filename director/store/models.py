"""Models: number 0 is the initial one, number r the result of round r."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select, update

from director.domain.types import BlobId, ExperimentId
from director.errors import ModelNotFound
from director.store import stash
from director.store.engine.database import Transaction
from director.store.stash import Blob
from director.store.tables import blobs, models

UNCOUNTABLE = 1 << 31
"""No model has this number or a higher one: the column cannot hold it."""

ONE = (
    select(models, blobs.c.chunk_bytes)
    .outerjoin(blobs, blobs.c.id == models.c.payload_blob_id)
    .where(models.c.experiment_id == bindparam("experiment"), models.c.number == bindparam("model"))
)


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model that is kept."""

    number: int
    digest: str
    score: float | None
    created_at: datetime
    blob: Blob


async def add(tx: Transaction, experiment_id: ExperimentId, number: int, blob: Blob) -> None:
    """Enter a model whose bytes this transaction has taken. The caller holds the experiment's row."""
    row = {
        "experiment_id": experiment_id,
        "number": number,
        "digest": blob.digest,
        "size_bytes": blob.size_bytes,
        "payload_blob_id": blob.id,
        "created_at": await tx.now(),
    }
    await tx.add(models, row)


async def get(tx: Transaction, experiment_id: ExperimentId, number: int) -> StoredModel:
    """Return a model.

    Raises:
        ModelNotFound: there is no such number, or it is no longer kept.
    """
    asked = {"experiment": experiment_id, "model": number}
    row = (await tx.execute(ONE, asked)).first() if 0 <= number < UNCOUNTABLE else None
    if row is None:
        raise ModelNotFound(f"the experiment has no model {number}")
    if row.payload_blob_id is None:
        raise ModelNotFound(f"model {number} is no longer kept (dropped at {row.pruned_at:%Y-%m-%d %H:%M} UTC)")
    blob = Blob(BlobId(row.payload_blob_id), row.size_bytes, row.chunk_bytes, row.digest)
    return StoredModel(number, row.digest, row.score, row.created_at, blob)


async def set_score(tx: Transaction, experiment_id: ExperimentId, number: int, score: float) -> None:
    """Store what the validation of a model gave. The caller holds the experiment's row."""
    scored = models.c.experiment_id == experiment_id, models.c.number == number
    await tx.execute(update(models).where(*scored).values(score=score))


async def drop_all(tx: Transaction, experiment_id: ExperimentId) -> None:
    """Drop the bytes of all models; their digests and scores stay. The caller holds the experiment's row."""
    kept = select(models.c.payload_blob_id, models.c.state_blob_id).where(models.c.experiment_id == experiment_id)
    held = [BlobId(blob_id) for row in (await tx.execute(kept)).all() for blob_id in row if blob_id is not None]
    await tx.execute(
        update(models)
        .where(models.c.experiment_id == experiment_id, models.c.pruned_at.is_(None))
        .values(payload_blob_id=None, state_blob_id=None, pruned_at=await tx.now())
    )
    await stash.drop(tx, *held)
