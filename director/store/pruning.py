"""What is no longer kept: found without a lock, and dropped a few rows per transaction.

Locked rows are left for the next time, and rows that others refer to are not touched.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, Executable, Integer, Select, Table, bindparam, delete, exists, select, tuple_, update

from director.domain.types import BlobId, ExperimentId
from director.store import stash
from director.store.engine.database import Transaction
from director.store.tables import (
    assignments,
    collaborators,
    contributions,
    directors,
    envoy_sessions,
    events,
    experiments,
    metrics,
    models,
    rounds,
)

STEP = 500
"""Rows dropped in one transaction, at most."""
A_STEP = bindparam("step", type_=Integer)
READERS_GRACE = timedelta(hours=1)
"""How long a pruned model's bytes stay for those who have begun to download them."""

E, M, S, D = experiments.c, models.c, envoy_sessions.c, directors.c
THE_ONE = E.id == bindparam("experiment")
LOCK = select(E.id, E.last_model, E.best_model).where(THE_ONE).with_for_update(key_share=True, skip_locked=True)
PROGRESS = select(E.id, E.last_model, E.best_model).where(E.removed_at.is_(None), E.last_model > 1)
OF_EXPERIMENT = M.experiment_id == bindparam("experiment")
PRUNABLE = (
    select(M.number, M.payload_blob_id, M.state_blob_id)
    .where(
        OF_EXPERIMENT,
        M.pruned_at.is_(None),
        M.number > 0,
        M.number < bindparam("last", type_=Integer),
        M.number != bindparam("best", type_=Integer),
        M.number % bindparam("every", type_=Integer) != 0,
    )
    .order_by(M.number)
    .limit(A_STEP)
)
PRUNE = (
    update(models)
    .where(OF_EXPERIMENT, M.number.in_(bindparam("numbers", expanding=True)))
    .values(payload_blob_id=None, state_blob_id=None, pruned_at=bindparam("instant"))
)


async def progress(tx: Transaction) -> dict[ExperimentId, tuple[int, int | None]]:
    """Return the last and the best model of experiments that have any to prune, perhaps."""
    return {ExperimentId(row.id): (row.last_model, row.best_model) for row in await tx.execute(PROGRESS)}


async def prune_models(tx: Transaction, experiment_id: ExperimentId, *, every: int) -> bool:
    """Drop the bytes of models between those that are kept; False where there may be more to drop.

    The first, the best and the last stay, and so do those whose number is a multiple of `every`.
    """
    row = (await tx.execute(LOCK, {"experiment": experiment_id})).first()
    if row is None:
        return False
    kept = {"last": row.last_model, "best": row.best_model or 0, "every": every}
    chosen = (await tx.execute(PRUNABLE, {"experiment": experiment_id, "step": STEP} | kept)).all()
    if chosen:
        numbers = {"experiment": experiment_id, "numbers": [each.number for each in chosen]}
        await tx.execute(PRUNE, numbers | {"instant": await tx.now()})
        held = [BlobId(blob) for each in chosen for blob in (each.payload_blob_id, each.state_blob_id) if blob]
        await stash.drop(tx, *held, grace=READERS_GRACE)
    return len(chosen) < STEP


def delete_some(table: Table, owner: Column[int]) -> Executable:
    """Return a statement that deletes the first rows of an experiment, in the order of their keys."""
    key: Sequence[Column[Any]] = [column for column in table.primary_key if column is not owner]
    mine = owner == bindparam("experiment")
    chosen: Select[Any] = select(*key).where(mine).order_by(*key).limit(A_STEP)
    return delete(table).where(mine, tuple_(*key).in_(chosen)).returning(key[0])


HISTORY = [
    # The first event goes first: where it is missing, fsck knows that the history is being dropped.
    delete_some(events, events.c.stream),
    # Then those that refer to others before these.
    *(
        delete_some(table, table.c.experiment_id)
        for table in (metrics, contributions, assignments, rounds, models, collaborators)
    ),
]
"""An experiment's history. Its row stays, so that its submission is still known, and its collaborators go last."""
WITH_HISTORY = exists().where(collaborators.c.experiment_id == E.id)
FORGOTTEN = select(E.id).where(E.removed_at <= bindparam("before"), WITH_HISTORY).order_by(E.id).limit(A_STEP)


async def removed(tx: Transaction, *, before: datetime) -> list[ExperimentId]:
    """Return experiments that were removed before an instant and still have a history."""
    found = await tx.execute(FORGOTTEN, {"before": before, "step": STEP})
    return [ExperimentId(row.id) for row in found]


async def drop_history(tx: Transaction, experiment_id: ExperimentId) -> bool:
    """Drop the next rows of a removed experiment's history; False when there are no more, or its row is held."""
    which = {"experiment": experiment_id}
    if (await tx.execute(LOCK, which)).first() is None:
        return False
    for statement in HISTORY:
        if (await tx.execute(statement, which | {"step": STEP})).all():
            return True
    return False


# Ids are given in the order in which sessions begin, and none is longer than a month: those to go are among the first.
OLDEST = select(S.id, S.offline_at).order_by(S.id).limit(A_STEP).subquery()
OLD_SESSIONS = select(OLDEST.c.id).where(OLDEST.c.offline_at <= bindparam("before"))
LOCK_SESSIONS = select(S.id).where(S.id.in_(OLD_SESSIONS)).order_by(S.id).with_for_update(skip_locked=True)
OWNERS = select(E.director_id).where(E.director_id.is_not(None))
OLD_DIRECTORS = select(D.id).where(D.reaped_at <= bindparam("before"), D.id.not_in(OWNERS)).order_by(D.id).limit(A_STEP)
LOCK_DIRECTORS = OLD_DIRECTORS.with_for_update(skip_locked=True)


async def anything_old(tx: Transaction, *, before: datetime) -> bool:
    """Whether a session or a director ended before an instant; looking costs no lock."""
    which = {"before": before, "step": STEP}
    for query in (OLD_SESSIONS, OLD_DIRECTORS):
        if (await tx.execute(query, which)).first() is not None:
            return True
    return False


async def forget(tx: Transaction, *, before: datetime) -> bool:
    """Delete some sessions and directors that ended before an instant; False when nothing was deleted."""
    which, forgotten = {"before": before, "step": STEP}, 0
    for key, query in ((S.id, LOCK_SESSIONS), (D.id, LOCK_DIRECTORS)):
        ids = [row.id for row in await tx.execute(query, which)]
        if ids:
            await tx.execute(delete(key.table).where(key.in_(ids)))
        forgotten += len(ids)
    return forgotten > 0
