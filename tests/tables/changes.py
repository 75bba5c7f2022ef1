"""What tests do to rows behind the director's back: in an open transaction, or else in one of its own."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import insert, literal, select

from director.domain.types import BlobState, ExperimentId, ExperimentState
from director.store.engine.database import Database, Transaction
from director.store.tables import blobs, experiments, metrics, shards
from tests.tables.statements import change

Anywhere = Database | Transaction


# Directors


async def declare_dead(db: Anywhere, director: str | None = None) -> None:
    """Declare a director dead at the end of its lease; every one, without a name."""
    if director is None:
        await change(db, "UPDATE directors SET reaped_at = expires_at")
    else:
        await change(db, "UPDATE directors SET reaped_at = expires_at WHERE id = :id", id=director)


async def expire_lease(db: Anywhere, director: str) -> None:
    await change(db, "UPDATE directors SET expires_at = started_at WHERE id = :id", id=director)


async def promise_ticks(db: Anywhere, seconds: float) -> None:
    """Have the last tick of the service clock promise the next one after so many seconds."""
    await change(db, "UPDATE service_clocks SET tick_seconds = :seconds", seconds=seconds)


# Who owns experiments


async def give_to(db: Anywhere, director: str | None) -> None:
    """Let a director own every experiment, or nobody."""
    await change(db, "UPDATE experiments SET director_id = :director", director=director)


async def give_experiment_to(db: Anywhere, experiment_id: int, director: str | None) -> None:
    """Let a director own an experiment, or nobody."""
    statement = "UPDATE experiments SET director_id = :director WHERE id = :id"
    await change(db, statement, director=director, id=experiment_id)


async def raise_fences(db: Anywhere) -> None:
    await change(db, "UPDATE experiments SET fence = fence + 1")


async def raise_fence(db: Anywhere, experiment_id: int) -> None:
    await change(db, "UPDATE experiments SET fence = fence + 1 WHERE id = :id", id=experiment_id)


async def set_fences(db: Anywhere, fence: int) -> None:
    await change(db, "UPDATE experiments SET fence = :fence", fence=fence)


async def rest_until(db: Anywhere, instant: datetime) -> None:
    """Keep every experiment from being claimed before an instant."""
    await change(db, f"UPDATE experiments SET claimable_from = '{instant:%Y-%m-%d %H:%M:%S}+00:00'")


async def count_crashes(db: Anywhere, crashes: int) -> None:
    """Have every experiment taken its directors down so often."""
    await change(db, "UPDATE experiments SET crashes = :crashes", crashes=crashes)


# Experiments and what belongs to them


async def rank(db: Anywhere, value: float) -> None:
    await change(db, "UPDATE experiments SET rank = :value", value=value)


async def make_pending(db: Anywhere) -> None:
    await change(db, "UPDATE experiments SET state = 'pending', started_at = NULL")


async def make_ineligible(db: Anywhere) -> None:
    await change(db, "UPDATE experiments SET eligible_at = NULL")


async def end_experiments_alone(db: Anywhere) -> None:
    """End every experiment, and nothing of what belongs to it."""
    await change(db, "UPDATE experiments SET state = 'failed', finished_at = submitted_at, director_id = NULL")


async def end_rounds_alone(db: Anywhere) -> None:
    """End every round, and nothing of what belongs to it."""
    await change(db, "UPDATE rounds SET state = 'abandoned', closed_at = opened_at")


async def replace_plan(db: Anywhere, plan: str, *, name: str | None = None) -> None:
    """Replace the stored plan of an experiment; of every one, without a name."""
    if name is None:
        await change(db, "UPDATE experiments SET plan = :plan", plan=plan)
    else:
        await change(db, "UPDATE experiments SET plan = :plan WHERE name = :name", plan=plan, name=name)


async def set_uid(db: Anywhere, name: str, uid: str) -> None:
    await change(db, "UPDATE experiments SET uid = :uid WHERE name = :name", uid=uid, name=name)


async def raise_plan_version(db: Anywhere, name: str) -> None:
    """Have an experiment's row say that a newer director wrote its plan."""
    await change(db, "UPDATE experiments SET plan_version = plan_version + 1 WHERE name = :name", name=name)


async def share(db: Anywhere, experiment_id: int, user: str) -> None:
    await change(db, "INSERT INTO experiment_users VALUES (:id, :user)", id=experiment_id, user=user)


async def contribute_unasked(db: Anywhere, experiment_id: int, envoy: str) -> None:
    await change(
        db,
        "INSERT INTO contributions (experiment_id, round, envoy, task, samples, attempt, received_at) "
        "VALUES (:id, 1, :envoy, 'train', 1, 1, '2030-01-01')",
        id=experiment_id,
        envoy=envoy,
    )


async def share_one_update(db: Anywhere) -> None:
    """Have all contributions refer to one blob."""
    await change(db, "UPDATE contributions SET digest = '', blob_id = (SELECT max(blob_id) FROM contributions)")


async def lose_chunk(db: Anywhere, envoy: str, number: int) -> None:
    """Delete a chunk of an envoy's update."""
    update = "(SELECT blob_id FROM contributions WHERE envoy = :envoy)"
    await change(
        db, f"DELETE FROM blob_chunks WHERE blob_id = {update} AND number = :number", envoy=envoy, number=number
    )


async def expire_uploads(db: Anywhere) -> None:
    await change(db, "UPDATE blobs SET expires_at = '2000-01-01'")


async def lose_experiments(db: Anywhere) -> None:
    """Have the table of experiments gone."""
    await change(db, "ALTER TABLE experiments RENAME TO lost")


FORBIDDEN = {
    "state that is none": "state = 'unheard of'",
    "terminal and never ended": "state = 'finished'",
    "ended and not terminal": "finished_at = submitted_at",
    "removed and not ended": "removed_at = submitted_at",
    "running and never started": "state = 'in_progress'",
    "no rounds": "rounds_total = 0",
    "archive that is not there": "archive_blob_id = 99",
    "owner that is not there": "director_id = 'nobody'",
}
"""What no experiment's row may say, of one that is pending."""


async def break_experiments(db: Anywhere, how: str) -> None:
    """Have experiments say something forbidden."""
    await change(db, f"UPDATE experiments SET {FORBIDDEN[how]}")


# More rows


async def add_orphan(db: Anywhere) -> None:
    """Add a heartbeat of an envoy that was never registered (SQLite)."""
    await change(db, "INSERT INTO heartbeats VALUES ('nobody', '2030-01-01', 0, 60, 0, '[]', NULL, NULL)")


async def add_shard(
    db: Database,
    envoy: str,
    *,
    at: datetime,
    description: str = "",
    samples: int = 1,
    sample_shape: Sequence[int] = (),
) -> None:
    """Add a shard that was registered at an instant."""
    row = {"envoy": envoy, "description": description, "samples": samples, "sample_shape": [*sample_shape]}
    more = {"target_shape": [], "registered_at": at, "updated_at": at, "retired_at": None}
    async with db.write("add") as tx:
        await tx.add(shards, row | more)


async def add_heartbeat(db: Anywhere, envoy: str, *, seen: float, period: float, left: bool) -> None:
    """Add a shard, and a heartbeat of its envoy at a service second; it may have left since."""
    await change(
        db,
        "INSERT INTO shards (envoy, description, samples, sample_shape, target_shape, registered_at, updated_at) "
        "VALUES (:envoy, '', 1, '[]', '[]', '2030-01-01', '2030-01-01')",
        envoy=envoy,
    )
    left_at = "'2030-01-01'" if left else "NULL"
    await change(
        db,
        "INSERT INTO heartbeats (envoy, seen_at, seen_service, period_seconds, experiment_running, devices, left_at) "
        f"VALUES (:envoy, '2030-01-01', :seen, :period, FALSE, '[]', {left_at})",
        envoy=envoy,
        seen=seen,
        period=period,
    )


async def add_envoys_from_outside(url: str, envoys: Sequence[str], *, session_id: str) -> None:
    """Add envoys, all at once, each in a session of this id (PostgreSQL)."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "INSERT INTO shards (envoy, description, samples, sample_shape, target_shape, registered_at, updated_at) "
        "SELECT name, '', 1, '[]', '[]', now(), now() FROM unnest($1::text[]) name",
        envoys,
    )
    await connection.execute(
        "INSERT INTO heartbeats "
        "(envoy, seen_at, seen_service, period_seconds, experiment_running, devices, session_id) "
        "SELECT name, now(), 0, 60, false, '[]', $2 FROM unnest($1::text[]) name",
        envoys,
        session_id,
    )
    await connection.close()


async def add_upload(db: Database, *, at: datetime) -> None:
    """Add an upload of no bytes."""
    row = {"upload_key": "p", "digest": None, "size_bytes": 0, "chunk_bytes": 1, "created_at": at, "expires_at": at}
    async with db.write("add") as tx:
        await tx.add(blobs, row | {"state": BlobState.RECEIVING})


async def add_metrics(db: Database, experiment_id: int, numbers: Sequence[int]) -> None:
    """Add metrics with numbers of one's own, in this order."""
    row = {"experiment_id": experiment_id, "round": 1, "origin": "a", "task": "train", "name": "loss", "value": 1.0}
    async with db.write("add") as tx:
        at = await tx.now()
        await tx.add(metrics, *(row | {"seq": number, "recorded_at": at} for number in numbers))


def uid_of(name: str) -> str:
    """Return the uid of an experiment that `clone` enters under a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


async def clone(
    db: Anywhere,
    original: int,
    name: str,
    *,
    state: ExperimentState | None = None,
    rank: float | None = None,
    claimable_at: datetime | None = None,
    review_due: bool | None = None,
) -> ExperimentId:
    """Enter an experiment like another one, without its archive, its collaborators and its history."""
    if isinstance(db, Database):
        async with db.write("clone") as tx:
            return await clone(
                tx, original, name, state=state, rank=rank, claimable_at=claimable_at, review_due=review_due
            )
    given = {"state": state, "rank": rank, "claimable_from": claimable_at, "review_due": review_due}
    changed: dict[str, Any] = {column: value for column, value in given.items() if value is not None}
    changed |= {"name": name, "uid": uid_of(name), "submission_id": name, "archive_blob_id": None}
    changed |= {"metric_seq": 0, "event_seq": 0}
    if state is ExperimentState.PENDING:
        changed["started_at"] = None
    if state is not None and state.terminal:
        changed["finished_at"] = await db.now()
    copied = [column for column in experiments.c if column.name not in ("id", *changed)]
    values = [literal(value, experiments.c[column].type) for column, value in changed.items()]
    like = select(*copied, *values).where(experiments.c.id == original)
    made = await db.execute(
        insert(experiments)
        .from_select([*(column.name for column in copied), *changed], like)
        .returning(experiments.c.id)
    )
    return ExperimentId(made.scalar_one())
