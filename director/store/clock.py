"""Service time: the seconds during which some director was up. It is what deadlines and absence are measured in.

The row says how many had passed when it was last ticked; between ticks it is read forward, by two ticks at most. So
it stands still while no director ticks: in an outage, on a suspended laptop, with a full disk.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update

from director.domain.liveness import ServiceTime
from director.store.engine.database import Transaction
from director.store.tables import service_clocks

TICKS_FORWARD = 2
READING = "service time"
ROW = select(service_clocks)
LOCKED = ROW.with_for_update(key_share=True, skip_locked=True)


@dataclass(frozen=True, slots=True)
class Reading:
    """The clock's row, read forward to now."""

    time: ServiceTime
    stale: bool
    """Ticked more than two ticks ago: tick before deciding anything."""


async def read(tx: Transaction) -> Reading:
    """Return service time as of the transaction's instant; read once in a transaction, as that is."""
    known: Reading | None = tx.recall(READING)
    if known is not None:
        return known
    row = (await tx.dated(ROW))[0]
    passed, limit = (await tx.now() - row.ticked_at).total_seconds(), TICKS_FORWARD * row.tick_seconds
    forward = min(max(passed, 0.0), limit)
    found = Reading(ServiceTime(row.service_seconds + forward, row.up_since), stale=passed > limit)
    tx.remember(READING, found)
    return found


async def now(tx: Transaction) -> ServiceTime:
    """Return service time, stale or not; for what is only recorded or shown."""
    return (await read(tx)).time


async def tick(tx: Transaction, *, every: timedelta) -> bool:
    """Store service time as of now; False where another director is ticking at this moment.

    After a gap of more than two ticks a new stretch of being up begins.
    """
    row = (await tx.execute(LOCKED)).first()
    if row is None:
        return False
    instant = await tx.now()
    passed, limit = (instant - row.ticked_at).total_seconds(), TICKS_FORWARD * row.tick_seconds
    seconds = row.service_seconds + min(max(passed, 0.0), limit)
    tx.forget(READING)
    await tx.execute(
        update(service_clocks).values(
            service_seconds=seconds,
            ticked_at=instant,
            up_since=seconds if passed > limit else row.up_since,
            tick_seconds=every.total_seconds(),
        )
    )
    return True


async def due(tx: Transaction, *, every: timedelta) -> bool:
    """Whether nobody has ticked for the length of a tick."""
    ticked_at: datetime = (await tx.dated(ROW))[0].ticked_at
    passed = await tx.now() - ticked_at
    return passed >= every or passed < timedelta(0)
