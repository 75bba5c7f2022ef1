"""Rows that tests hold while others want them (PostgreSQL)."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import text

from director.store.engine.database import Database, Transaction

Held = AbstractAsyncContextManager[Transaction]

BY_KEY = re.compile(r"\b(id|name|upload_key|heartbeats\.envoy) = \$")
"""How a statement picks one row by a unique key."""


@asynccontextmanager
async def holding(db: Database, statement: str, **parameters: Any) -> AsyncIterator[Transaction]:
    """Hold the rows that a statement locks, in a transaction of its own."""
    async with db.write("hold") as tx:
        assert (await tx.execute(text(statement), parameters)).all(), "there is nothing to lock"
        yield tx


def experiment(db: Database, experiment_id: int) -> Held:
    return holding(db, "SELECT 1 FROM experiments WHERE id = :id FOR NO KEY UPDATE", id=experiment_id)


def every_experiment(db: Database) -> Held:
    return holding(db, "SELECT id FROM experiments FOR NO KEY UPDATE")


def director(db: Database, director_id: str) -> Held:
    return holding(db, "SELECT 1 FROM directors WHERE id = :id FOR NO KEY UPDATE", id=director_id)


def director_that_is_declared_dead(db: Database, director_id: str) -> Held:
    """Hold a director's row, in which it is declared dead at the end."""
    return holding(db, "UPDATE directors SET reaped_at = expires_at WHERE id = :id RETURNING id", id=director_id)


def heartbeat(db: Database, envoy: str) -> Held:
    return holding(db, "SELECT 1 FROM heartbeats WHERE envoy = :envoy FOR NO KEY UPDATE", envoy=envoy)


def service_clock(db: Database) -> Held:
    return holding(db, "SELECT id FROM service_clocks FOR NO KEY UPDATE")


def periodic_job(db: Database, name: str) -> Held:
    return holding(db, "SELECT name FROM periodic_jobs WHERE name = :name FOR NO KEY UPDATE", name=name)


def every_blob(db: Database) -> Held:
    return holding(db, "SELECT id FROM blobs FOR UPDATE")


async def take_rounds(connection: Any) -> None:
    """Lock the rows of rounds in the open transaction of a connection."""
    await connection.execute("SELECT 1 FROM rounds FOR NO KEY UPDATE")


async def are_rounds_waited_for(connection: Any) -> bool:
    """Whether somebody who changes a round waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE rounds%'"
    return await connection.fetchval(waiting) is not None


async def take_experiments(connection: Any, *, wait: bool = True) -> None:
    """Lock the rows of experiments for a moment."""
    await connection.execute(f"SELECT 1 FROM experiments FOR NO KEY UPDATE {'' if wait else 'NOWAIT'}")
