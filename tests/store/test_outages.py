"""What is away, full or stuck is said to be so; what was acknowledged is there, and what was not is not."""

import asyncio
import gc
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from director.errors import DiskFull, Overloaded, Unavailable
from director.store.engine import postgresql, schema, sqlite
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.engine.topics import Topic
from tests.postgres import PostgresServer
from tests.store.words import PATIENCE, only_postgresql, only_sqlite
from tests.tables import changes, scratch_rows
from tests.tables.scratch_rows import write
from tests.tables.statements import one


@only_sqlite
async def test_writer_holds_the_file_from_its_beginning(plain: Database) -> None:
    async with plain.write("test") as tx:
        await scratch_rows.names(tx)

        with pytest.raises(sqlite3.OperationalError, match="locked"):
            scratch_rows.write_from_outside(plain.url)

        await scratch_rows.add(tx, "own")
    assert await scratch_rows.names(plain) == ["own"]


@only_sqlite
async def test_commit_waits_for_the_disk_and_rows_have_their_parents(plain: Database) -> None:
    async with plain.write("test") as tx:
        found = {
            pragma: (await tx.execute(text(f"PRAGMA {pragma}"))).scalar_one()
            for pragma in ("synchronous", "journal_mode", "foreign_keys", "busy_timeout", "page_size", "auto_vacuum")
        }

    assert found == {
        "synchronous": 2,
        "journal_mode": "wal",
        "foreign_keys": 1,
        "busy_timeout": 30000,
        "page_size": 16384,
        "auto_vacuum": 2,
    }


@only_postgresql
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # a connection that does not answer cannot be closed
async def test_rows_that_a_stuck_server_does_not_take_are_given_up_in_time(
    plain: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hasty(url: str) -> Any:
        return await asyncpg.connect(url, command_timeout=0.5)

    monkeypatch.setattr(postgresql, "connect", hasty)
    db = open_database(plain.url)
    stuck: list[int] = []
    many = [f"{number:032}" for number in range(50_000)]

    async def insert() -> None:
        async with db.write("test") as tx:
            stuck.append((await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one())
            await scratch_rows.add(tx, *many[:2])  # known to the driver now, which has nothing left to ask
            os.kill(stuck[0], signal.SIGSTOP)
            await scratch_rows.add(tx, *many[2:])

    inserting = asyncio.create_task(insert())
    try:
        done, _ = await asyncio.wait([inserting], timeout=PATIENCE)
    finally:
        os.kill(stuck[0], signal.SIGCONT)

    assert done
    with pytest.raises(Unavailable):
        await inserting
    assert inserting.cancelling() == 0
    await db.close()
    gc.collect()


@only_postgresql
async def test_no_session_waits_for_ever(plain: Database) -> None:
    async with plain.write("test") as tx:
        found = {name: (await tx.execute(text(f"SHOW {name}"))).scalar_one() for name in postgresql.SESSION}

    assert found.pop("timezone") == "UTC"
    assert found == {
        "application_name": "director",
        "statement_timeout": "30s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "3s",
        "tcp_user_timeout": "0",  # no TCP on a socket of the machine itself
        "client_connection_check_interval": "5s",
        "jit": "off",
    }


@only_postgresql
async def test_lock_that_is_not_to_be_had_is_unavailable(plain: Database) -> None:
    await write(plain, "held")
    async with plain.write("holder") as holder:
        await scratch_rows.lock(holder)

        with pytest.raises(Unavailable, match="lock timeout"):
            async with plain.write("test") as tx:
                await tx.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await scratch_rows.lock(tx)


@only_postgresql
async def test_transaction_that_does_nothing_for_too_long_loses_its_locks(plain: Database) -> None:
    await write(plain, "held")

    with pytest.raises(Unavailable):
        async with plain.write("frozen") as tx:
            await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
            await scratch_rows.add(tx, "lost")
            await asyncio.sleep(0.2)

    await write(plain, "later")
    assert await scratch_rows.names(plain) == ["held", "later"]


async def test_caller_that_gets_no_connection_in_time_is_overload(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, size in ((sqlite, "READERS"), (postgresql, "POOL")):
        monkeypatch.setattr(module, size, 1)
        monkeypatch.setattr(module, "POOL_SECONDS", 0.05)
    db = open_database(migrated_url)
    async with db.read():
        with pytest.raises(Overloaded, match="every connection to the database is in use"):
            async with db.read():
                pass

    assert await scratch_rows.names(db) == []
    await db.close()


@only_sqlite
async def test_full_disk_is_said_and_nothing_of_the_group_is_acknowledged(plain: Database) -> None:
    pages = await one(plain, "PRAGMA page_count")
    async with plain.write("limit") as tx:
        await tx.execute(text(f"PRAGMA max_page_count = {pages + 4}"))

    outcomes = await asyncio.gather(
        write(plain, "small"), write(plain, "x" * 200_000), write(plain, "after"), return_exceptions=True
    )

    found = await scratch_rows.names(plain)
    assert isinstance(outcomes[1], DiskFull)
    assert (outcomes[0] is None) == ("small" in found)
    assert (outcomes[2] is None) == ("after" in found)
    async with plain.write("limit") as tx:
        await tx.execute(text("PRAGMA max_page_count = 1000000"))
    await write(plain, "x" * 200_000)


@only_sqlite
async def test_what_an_error_of_the_disk_took_with_it_is_not_acknowledged(plain: Database) -> None:
    begun = asyncio.Event()

    async def lose_the_transaction() -> None:
        async with plain.write("test") as tx:
            begun.set()
            await scratch_rows.add(tx, "lost too")
            await tx._connection.exec_driver_sql("ROLLBACK")  # as SQLite does by itself on an I/O error
            raise OSError("disk I/O error")

    earlier = asyncio.create_task(write(plain, "earlier"))
    await asyncio.sleep(0)
    losing = asyncio.create_task(lose_the_transaction())
    outcomes = await asyncio.gather(earlier, losing, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    await write(plain, "later")
    assert await scratch_rows.names(plain) == ["later"]


@only_sqlite
async def test_commit_that_fails_is_told_to_everybody_whose_rows_it_had(plain: Database) -> None:
    async def write_an_orphan() -> None:
        async with plain.write("test") as tx:
            await tx.execute(text("PRAGMA defer_foreign_keys = ON"))
            await changes.add_orphan(tx)

    outcomes = await asyncio.gather(
        write(plain, "before"), write_an_orphan(), write(plain, "after"), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert "the commit failed" in str(outcomes[0])
    await write(plain, "later")
    assert await scratch_rows.names(plain) == ["later"]


async def test_defect_in_a_statement_is_not_taken_for_an_outage(plain: Database) -> None:
    with pytest.raises(IntegrityError):
        await write(plain, "a", "a")

    await write(plain, "b")
    assert await scratch_rows.names(plain) == ["b"]


@pytest.fixture
async def falling() -> AsyncIterator[tuple[PostgresServer, Database]]:
    """A PostgreSQL server that a test may crash, and a database on it."""
    server = PostgresServer()
    try:
        server.start()
        url = await server.create_database("falling")
        await schema.upgrade_schema(url)
        db = open_database(url)
        yield server, db
        await db.close()
    finally:
        server.remove()


async def test_lost_database_is_unavailable_until_it_is_back(falling: tuple[PostgresServer, Database]) -> None:
    server, db = falling
    given: list[Any] = []
    db.on_commit = given.append
    await write(db, "kept")
    given.clear()

    with pytest.raises(Unavailable):
        async with db.write("test") as tx:
            tx.wake(Topic.claim())
            await scratch_rows.add(tx, "in flight")
            server.crash()
    with pytest.raises(Unavailable):
        await write(db, "while it was away")
    with pytest.raises(Unavailable):
        await scratch_rows.names(db)
    server.start()
    await write(db, "back")

    assert await scratch_rows.names(db) == ["back", "kept"]
    assert [list(topics) for topics in given] == [[]]
