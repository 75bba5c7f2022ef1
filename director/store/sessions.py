"""The uptime history: when each envoy was online, without a row per heartbeat.

A session that goes on into another month is cut there, so that each row belongs to one month.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, bindparam, func, select, update

from director.domain.history import EventKind, Occurrence
from director.domain.liveness import Liveness, limit_seconds
from director.store import clock, events
from director.store.engine.database import Transaction
from director.store.tables import envoy_sessions, heartbeats

FRESHNESS = timedelta(minutes=1)
"""How far the stored end of an open session may lag behind."""

OPEN = select(envoy_sessions.c.id, envoy_sessions.c.online_at).where(
    envoy_sessions.c.envoy == bindparam("name"), envoy_sessions.c.offline_at.is_(None)
)
ENDED = (
    select(envoy_sessions.c.envoy, func.max(envoy_sessions.c.offline_at).label("at"))
    .where(envoy_sessions.c.envoy.in_(bindparam("names", expanding=True)))
    .group_by(envoy_sessions.c.envoy)
)


async def open_one(tx: Transaction, envoy: str) -> bool:
    """Open a session for an envoy that has just registered; False if one is open."""
    row = begun(envoy, await tx.now())
    await let_follow(tx, [row])
    opened = tx.insert(envoy_sessions).values(row).on_conflict_do_nothing().returning(envoy_sessions.c.id)
    return (await tx.execute(opened)).first() is not None


async def close_one(tx: Transaction, envoy: str) -> None:
    """Close the open session of an envoy that leaves."""
    now = await tx.now()
    for row in (await tx.execute(OPEN, {"name": envoy})).all():
        at = max(now, row.online_at)
        length = (at - row.online_at).total_seconds()
        await tx.execute(
            update(envoy_sessions)
            .where(envoy_sessions.c.id == row.id)
            .values(last_seen_at=at, offline_at=at, online_seconds=length)
        )


async def let_follow(tx: Transaction, rows: Sequence[dict[str, Any]]) -> None:
    """Move the begin of sessions behind the end of their envoys' last one, in case a clock went back."""
    ended = await tx.execute(ENDED, {"names": [row["envoy"] for row in rows]})
    last = {row.envoy: row.at for row in ended}
    for row in rows:
        at = last.get(row["envoy"])
        if at is not None and at > row["online_at"]:
            row |= begun(row["envoy"], at)


def month_of(instant: datetime) -> str:
    """Return the month of an instant, as 2030-01."""
    return instant.astimezone(UTC).strftime("%Y-%m")


def month_start(instant: datetime) -> datetime:
    """Return when the month of an instant began."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@dataclass(slots=True)
class Changes:
    """What one comparison of all envoys found to write."""

    closed: list[dict[str, Any]]
    opened: list[dict[str, Any]]
    touched: list[dict[str, Any]]
    events: list[Occurrence]
    returned: bool = False


async def reconcile(tx: Transaction, *, lease: timedelta) -> bool:
    """Close the sessions of envoys that went silent and open those of envoys that are back; whether any came back.

    The caller holds the row of the job.
    """
    now, time = await tx.now(), await clock.now(tx)
    open_ = and_(envoy_sessions.c.envoy == heartbeats.c.envoy, envoy_sessions.c.offline_at.is_(None))
    found = select(
        heartbeats.c.envoy,
        heartbeats.c.seen_at,
        heartbeats.c.seen_service,
        heartbeats.c.period_seconds,
        heartbeats.c.left_at,
        envoy_sessions.c.id,
        envoy_sessions.c.month,
        envoy_sessions.c.online_at,
        envoy_sessions.c.last_seen_at,
    ).join_from(heartbeats, envoy_sessions, open_, isouter=True)
    changes = Changes([], [], [], [])
    for row in (await tx.execute(found.order_by(heartbeats.c.envoy))).all():
        limit = limit_seconds(row.period_seconds, lease.total_seconds())
        online = Liveness(row.seen_service, limit, row.left_at is not None).online(time)
        compare(row, online=online, now=now, changes=changes)
    if changes.opened:
        await let_follow(tx, changes.opened)
    await store(tx, changes)
    return changes.returned


def compare(row: Row[Any], *, online: bool, now: datetime, changes: Changes) -> None:
    """Note what an envoy's heartbeat means for its session."""
    if row.id is None:
        if online:
            changes.opened.append(begun(row.envoy, row.seen_at))
            changes.events.append(Occurrence(EventKind.ENVOY_ONLINE, row.envoy))
            changes.returned = True
    elif not online:
        changes.closed.append(ended(row, max(row.seen_at, row.online_at)))
        changes.events.append(
            Occurrence(EventKind.ENVOY_OFFLINE, row.envoy, details={"seen_at": row.seen_at.isoformat()})
        )
    elif row.month != month_of(now):
        turn = max(month_start(now), row.online_at)
        changes.closed.append(ended(row, turn))
        changes.opened.append(begun(row.envoy, turn, month=month_of(now)))
    elif row.seen_at - row.last_seen_at >= FRESHNESS:
        changes.touched.append(seen(row, row.seen_at))


def begun(envoy: str, at: datetime, *, month: str | None = None) -> dict[str, Any]:
    """Return the row of a session that begins."""
    return {
        "envoy": envoy,
        "month": month or month_of(at),
        "online_at": at,
        "last_seen_at": at,
        "offline_at": None,
        "online_seconds": 0.0,
    }


def seen(row: Row[Any], at: datetime) -> dict[str, Any]:
    """Return how far an open session reaches."""
    return {"session": row.id, "seen": at, "seconds": (at - row.online_at).total_seconds()}


def ended(row: Row[Any], at: datetime) -> dict[str, Any]:
    """Return how a session ends."""
    return seen(row, at) | {"offline": at}


async def store(tx: Transaction, changes: Changes) -> None:
    """Write what was noted, many rows at once; a session that its envoy has ended meanwhile stays as it is."""
    reach: dict[str, Any] = {"last_seen_at": bindparam("seen"), "online_seconds": bindparam("seconds")}
    session = update(envoy_sessions).where(
        envoy_sessions.c.id == bindparam("session"), envoy_sessions.c.offline_at.is_(None)
    )
    if changes.closed:
        await tx.execute(session.values(**reach, offline_at=bindparam("offline")), changes.closed)
    if changes.opened:
        await tx.execute(tx.insert(envoy_sessions).on_conflict_do_nothing(), changes.opened)
    if changes.touched:
        await tx.execute(session.values(**reach), changes.touched)
    if changes.events:
        await events.append_to_federation(tx, *changes.events)
