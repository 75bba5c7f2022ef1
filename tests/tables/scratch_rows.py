"""A small table for tests of transactions, which need rows to write and do not mind which: that of periodic jobs."""

import asyncio
import contextlib
import sqlite3
from typing import Any

from sqlalchemy import text

from director.store.engine.database import Database, Transaction
from director.store.tables import periodic_jobs
from tests.tables.statements import change, rows, seen_from_outside

NAMES = "SELECT name FROM periodic_jobs ORDER BY name"


async def names(db: Database | Transaction) -> list[str]:
    """Return what is written, in the order of the alphabet."""
    return await rows(db, NAMES)


def names_from_outside(url: str) -> list[Any]:
    return seen_from_outside(url, NAMES)


async def add(tx: Transaction, *names: str) -> None:
    """Write rows with one statement."""
    await tx.add(periodic_jobs, *({"name": name} for name in names))


async def write(db: Database, *names: str, fail: bool = False) -> None:
    """Write rows one by one; give way to others in between."""
    async with db.write("test") as tx:
        for name in names:
            await add(tx, name)
            await asyncio.sleep(0)
        if fail:
            raise ValueError("on purpose")


async def lock(tx: Transaction) -> None:
    """Lock every row (PostgreSQL)."""
    await rows(tx, "SELECT name FROM periodic_jobs FOR UPDATE")


def write_from_outside(url: str) -> None:
    """Write a row with a connection that does not wait (SQLite)."""
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0)) as another:
        another.execute("INSERT INTO periodic_jobs VALUES ('between')")


async def commit_slowly(db: Database) -> None:
    """Let every commit that wrote rows take half a second (PostgreSQL)."""
    for statement in (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON periodic_jobs DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()",
    ):
        await change(db, statement)


async def lose_the_transaction_slowly(tx: Transaction) -> None:
    """Break a constraint after a while and roll all back, as SQLite does by itself on an I/O error (SQLite)."""
    statement = (
        "INSERT OR ROLLBACK INTO periodic_jobs "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
        "SELECT 'n' || i FROM n UNION ALL SELECT 'n1'"
    )
    await tx.execute(text(statement))
