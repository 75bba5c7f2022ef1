"""The history: every transition, in the transaction that makes it; numbered without a gap within its stream.

The number comes from the row that the transaction has locked anyway, so it is taken in the order of the commits, and a
reader's cursor never skips one.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Integer, bindparam, insert, select, update

from director.domain.history import Cursor, Event, Occurrence
from director.domain.types import ExperimentId
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import FEDERATION_STREAM, events, experiments, federations

REASON_CHARACTERS = 65536


COUNT = (
    update(experiments)
    .where(experiments.c.id == bindparam("experiment"))
    .values(event_seq=experiments.c.event_seq + bindparam("number"))
    .returning(experiments.c.event_seq)
)
COUNT_FEDERATION = (
    update(federations)
    .values(event_seq=federations.c.event_seq + bindparam("number"))
    .returning(federations.c.event_seq)
)
# Both in one statement, which costs half the time; PostgreSQL alone knows an UPDATE inside another statement.
COUNTED = COUNT.cte("counted")
GIVEN = {f"its_{column.name}": column for column in events.c if column.name != "seq"}
COUNT_AND_RECORD = insert(events).from_select(
    [events.c.seq, *GIVEN.values()],
    select(COUNTED.c.event_seq, *(bindparam(name, type_=column.type) for name, column in GIVEN.items())),
)
AFTER = (
    select(events)
    .where(events.c.stream == bindparam("of"), events.c.seq > bindparam("cursor"))
    .order_by(events.c.seq)
    .limit(bindparam("page", type_=Integer))
)


async def append(tx: Transaction, experiment_id: ExperimentId, *happened: Occurrence) -> None:
    """Record what happened to an experiment. The caller holds its row, and does this last."""
    counting = {"experiment": experiment_id, "number": len(happened)}
    if tx.postgresql and len(happened) == 1:
        [row] = records(experiment_id, 0, await tx.now(), happened)
        await tx.execute(COUNT_AND_RECORD, counting | {name: row[column.name] for name, column in GIVEN.items()})
        return
    counted = await tx.execute(COUNT, counting)
    await add_all(tx, experiment_id, counted.scalar_one() - len(happened), happened)


async def append_to_federation(tx: Transaction, *happened: Occurrence) -> None:
    """Record what happened to the federation itself."""
    counted = await tx.execute(COUNT_FEDERATION, {"number": len(happened)})
    await add_all(tx, FEDERATION_STREAM, counted.scalar_one() - len(happened), happened)
    tx.wake(Topic.federation())


async def add_all(tx: Transaction, stream: int, seq: int, happened: Sequence[Occurrence]) -> None:
    """Insert events behind a number of their stream."""
    await tx.add(events, *records(stream, seq, await tx.now(), happened))


def records(stream: int, seq: int, at: datetime, happened: Sequence[Occurrence]) -> list[dict[str, Any]]:
    """Return the rows of events behind a number of their stream."""
    return [
        {
            "stream": stream,
            "seq": seq + number,
            "at": at,
            "actor": event.actor,
            "kind": event.kind.value,
            "reason": event.reason[:REASON_CHARACTERS] if event.reason else None,
            "details": dict(event.details),
        }
        for number, event in enumerate(happened, start=1)
    ]


async def after(tx: Transaction, stream: int, seq: int, *, name: str, epoch: str, limit: int) -> list[Event]:
    """Return the next events of a stream, in order; their cursors carry the stream's name and the epoch."""
    rows = await tx.execute(AFTER, {"of": stream, "cursor": seq, "page": limit})
    return [
        Event(Cursor(name, epoch, row.seq), row.at, row.actor, row.kind, row.reason or "", row.details)
        for row in rows.all()
    ]
