"""What the rows of directors and envoys say: leases, shards, heartbeats and sessions."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, select

from director.store.engine.database import Database
from director.store.tables import heartbeats, shards
from tests.tables.statements import one, rows, seen_from_outside


async def directors(db: Database) -> list[str]:
    return await rows(db, "SELECT id FROM directors")


async def directors_alive(db: Database) -> list[str]:
    return await rows(db, "SELECT id FROM directors WHERE reaped_at IS NULL")


async def directors_dead(db: Database) -> list[str]:
    return await rows(db, "SELECT id FROM directors WHERE reaped_at IS NOT NULL")


async def lease(db: Database, director: str) -> tuple[Any, Any]:
    """Return when a director's lease ends, and when it was declared dead."""
    expires_at, dead_at = await one(db, "SELECT expires_at, reaped_at FROM directors WHERE id = :id", id=director)
    return expires_at, dead_at


async def leases_expired(db: Database) -> list[str]:
    """Return the directors whose leases have expired, by the clock of PostgreSQL."""
    return await rows(db, "SELECT id FROM directors WHERE expires_at <= clock_timestamp()")


def are_leases_expired_from_outside(url: str) -> list[bool]:
    """Whether each director's lease has expired, by the clock of PostgreSQL."""
    return seen_from_outside(url, "SELECT expires_at <= clock_timestamp() FROM directors")


class RegisteredShard(NamedTuple):
    """A shard, with its values as Python has them."""

    description: str
    samples: int
    sample_shape: list[int]
    at: datetime
    """When it was registered."""


async def shard(db: Database, envoy: str) -> RegisteredShard:
    columns = (shards.c.description, shards.c.samples, shards.c.sample_shape, shards.c.registered_at)
    return RegisteredShard(*await one(db, select(*columns).where(shards.c.envoy == envoy)))


async def envoys(db: Database) -> list[str]:
    return await rows(db, "SELECT envoy FROM shards ORDER BY envoy")


async def envoys_registered_after(db: Database, instant: datetime) -> list[str]:
    """Return the envoys that were registered after an instant, the first one first."""
    return await rows(
        db, select(shards.c.envoy).where(shards.c.registered_at > instant).order_by(shards.c.registered_at)
    )


async def envoys_at_work(db: Database) -> list[str]:
    """Return the envoys that say they are running an experiment."""
    return await rows(db, "SELECT envoy FROM heartbeats WHERE experiment_running ORDER BY envoy")


async def envoys_with_heartbeats(db: Database, condition: ColumnElement[bool]) -> list[str]:
    """Return the envoys whose heartbeats meet a condition."""
    return await rows(db, select(heartbeats.c.envoy).where(condition))


async def instants_of_heartbeats(db: Database) -> list[Any]:
    return await rows(db, "SELECT DISTINCT seen_at FROM heartbeats")


async def sessions(db: Database) -> list[tuple[str, str, float, bool]]:
    """Return the sessions: envoy, month, seconds online, and whether it is still open."""
    query = "SELECT envoy, month, online_seconds, offline_at IS NULL FROM envoy_sessions ORDER BY id"
    return [(envoy, month, seconds, bool(is_open)) for envoy, month, seconds, is_open in await rows(db, query)]


async def envoys_with_sessions(db: Database) -> list[str]:
    """Return the envoys of all sessions, each once for each."""
    return [envoy for envoy, _, _, _ in await sessions(db)]


async def envoys_with_open_sessions(db: Database) -> list[str]:
    return sorted(envoy for envoy, _, _, is_open in await sessions(db) if is_open)


async def stretches(db: Database) -> list[tuple[Any, Any]]:
    """Return from when to when the sessions last."""
    return await rows(db, "SELECT online_at, offline_at FROM envoy_sessions ORDER BY id")


async def last_seen(db: Database) -> Any:
    """Return when the envoy of the only session was last seen."""
    return await one(db, "SELECT last_seen_at FROM envoy_sessions")
