"""Contributions: one per experiment, round, envoy and task, however often it is sent."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, select

from director.domain.commands import Contribute
from director.domain.types import AssignmentState, BlobId, ExperimentId
from director.errors import NotFound
from director.store.engine.database import Transaction
from director.store.stash import Blob
from director.store.tables import assignments, blobs, contributions

K = contributions.c
OF_ROUND = K.experiment_id == bindparam("of_experiment"), K.round == bindparam("of_round")
HELD = select(K.digest).where(*OF_ROUND, K.envoy == bindparam("of_envoy"), K.task == bindparam("of_task"))
COUNTED = (
    select(K.envoy, K.task, K.samples, K.digest, K.blob_id, blobs.c.size_bytes, blobs.c.chunk_bytes)
    .outerjoin(blobs, blobs.c.id == K.blob_id)
    .join(
        assignments,
        and_(
            assignments.c.experiment_id == K.experiment_id,
            assignments.c.round == K.round,
            assignments.c.envoy == K.envoy,
        ),
    )
    .where(*OF_ROUND, assignments.c.state == AssignmentState.COUNTED)
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A contribution that is held."""

    digest: str | None


async def find(tx: Transaction, experiment_id: ExperimentId, command: Contribute) -> Stored | None:
    """Return what is held already under the same key."""
    key = {
        "of_experiment": experiment_id,
        "of_round": command.round_number,
        "of_envoy": command.envoy,
        "of_task": command.task,
    }
    row = (await tx.execute(HELD, key)).first()
    return Stored(row.digest) if row is not None else None


async def add(
    tx: Transaction,
    experiment_id: ExperimentId,
    command: Contribute,
    update: Blob | None,
    *,
    given_at: datetime | None = None,
) -> bool:
    """Enter a contribution to tasks given at some instant; False if its key is held. The caller holds the row."""
    now = await tx.now()
    row = {
        "experiment_id": experiment_id,
        "round": command.round_number,
        "envoy": command.envoy,
        "task": command.task,
        "samples": command.samples,
        "digest": None if update is None else update.digest,
        "blob_id": None if update is None else update.id,
        "attempt": command.attempt,
        "received_at": now,
        "working_seconds": None if given_at is None else (now - given_at).total_seconds(),
    }
    return await tx.add_if_absent(contributions, row, "envoy") is not None


@dataclass(frozen=True, slots=True)
class Counted:
    """A contribution that enters the averages."""

    envoy: str
    task: str
    samples: int
    update: Blob | None
    """Its bytes; None for a validate task, and once the round has ended."""


async def counted(tx: Transaction, experiment_id: ExperimentId, round_number: int) -> list[Counted]:
    """Return a frozen round's contributions that count, in the order of the envoys' names."""
    found = await tx.execute(COUNTED, {"of_experiment": experiment_id, "of_round": round_number})
    # Sorted here: the order of names differs between engines and collations.
    rows = sorted(found.all(), key=lambda row: (row.envoy, row.task))
    return [Counted(row.envoy, row.task, row.samples, update_of(row)) for row in rows]


def update_of(row: Row[Any]) -> Blob | None:
    """Return a contribution's bytes, if it has any."""
    if row.blob_id is None:
        return None
    return Blob(BlobId(row.blob_id), row.size_bytes, row.chunk_bytes, row.digest)


def updates(inputs: list[Counted]) -> list[Blob]:
    """Return the updates of contributions that had one, in the order given.

    Raises:
        NotFound: the round has ended since, and its updates are gone.
    """
    found = []
    for each in inputs:
        if each.update is None:
            raise NotFound(f"the update of envoy {each.envoy!r} is gone: its round has ended")
        found.append(each.update)
    return found
