"""A transaction is committed as a whole before anybody is told, or leaves nothing, whatever happens meanwhile."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from director.effects import ManualClock
from director.errors import ResourceExhausted, Unavailable
from director.store import postgresql, schema, sqlite
from director.store.database import Database, Hint
from director.store.opening import open_database
from director.store.tables import duties
from tests.postgres import PostgresServer
from tests.store.words import change, one, only_postgresql, only_sqlite, rows, seen_from_outside

DUTIES = "SELECT name FROM duties ORDER BY name"


@pytest.fixture
async def db(migrated_url: str) -> AsyncIterator[Database]:
    """A database without a director; the duties serve as rows to write."""
    opened = open_database(migrated_url)
    yield opened
    await opened.close()


async def write(db: Database, *names: str, fail: bool = False) -> None:
    """Write rows one by one; give way to others in between."""
    async with db.write("test") as tx:
        for name in names:
            await tx.add(duties, {"name": name})
            await asyncio.sleep(0)
        if fail:
            raise ValueError("on purpose")


@pytest.fixture
def commits() -> Iterator[list[Any]]:
    """Every COMMIT that an engine sends."""
    seen: list[Any] = []

    def see(connection: Any) -> None:
        seen.append(connection)

    event.listen(Engine, "commit", see)
    yield seen
    event.remove(Engine, "commit", see)


@pytest.mark.parametrize("failing", [0, 1, 4, 8], ids=["the first", "the second", "one between", "the last"])
async def test_failing_writer_rolls_back_alone(db: Database, failing: int) -> None:
    writers = [write(db, f"{number}a", f"{number}b", fail=number == failing) for number in range(9)]

    outcomes = await asyncio.gather(*writers, return_exceptions=True)

    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [failing]
    expected = [f"{number}{part}" for number in range(9) for part in "ab" if number != failing]
    assert await rows(db, DUTIES) == expected


async def test_writer_that_breaks_a_constraint_rolls_back_alone(db: Database) -> None:
    await write(db, "taken")

    outcomes = await asyncio.gather(
        write(db, "before"), write(db, "half", "taken"), write(db, "after"), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert await rows(db, DUTIES) == ["after", "before", "taken"]


@only_sqlite
async def test_writers_that_wait_share_a_commit(db: Database, commits: list[Any]) -> None:
    await asyncio.gather(*(write(db, f"{number:02}") for number in range(20)))

    assert len(commits) == 1
    assert len(await rows(db, DUTIES)) == 20


@only_sqlite
async def test_writer_is_not_answered_before_the_common_commit(db: Database) -> None:
    seen: list[Any] = []

    async def answered(name: str) -> None:
        await write(db, name)
        seen.append(seen_from_outside(db.url, DUTIES))

    await asyncio.gather(answered("a"), answered("b"), answered("c"))

    assert seen == [["a", "b", "c"]] * 3


@pytest.mark.parametrize("steps", range(0, 36, 3))
async def test_cancelled_writer_leaves_all_or_nothing_and_disturbs_nobody(db: Database, steps: int) -> None:
    await write(db, "connected")
    before = asyncio.create_task(write(db, "a1", "a2"))
    cancelled = asyncio.create_task(write(db, "b1", "b2"))
    after = asyncio.create_task(write(db, "c1", "c2"))
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    cancelled.cancel()

    outcomes = await asyncio.gather(before, cancelled, after, return_exceptions=True)

    assert outcomes[0] is None
    assert outcomes[2] is None
    await write(db, "later")
    found = await rows(db, DUTIES)
    half = [name for name in found if name.startswith("b")]
    assert half in ([], ["b1", "b2"])
    assert half or outcomes[1] is not None, "what was acknowledged is there"
    assert [name for name in found if name not in half] == ["a1", "a2", "c1", "c2", "connected", "later"]


async def test_nothing_acknowledged_is_lost_and_nothing_is_half_done_under_random_cancels(
    db: Database, engine_kind: str
) -> None:
    acknowledged: set[int] = set()

    async def writer(number: int) -> None:
        await write(db, f"{number:03}a", f"{number:03}b")
        acknowledged.add(number)

    tasks = [asyncio.create_task(writer(number)) for number in range(120)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0)
        if number % 3 == 0:
            asyncio.get_running_loop().call_later((number * 7 % 50) / 1000, task.cancel)
    await asyncio.wait(tasks)

    found = await rows(db, DUTIES)
    whole = {int(name[:3]) for name in found}
    assert found == [f"{number:03}{part}" for number in sorted(whole) for part in "ab"]
    assert acknowledged <= whole
    assert {number for number in range(120) if number % 3} <= acknowledged
    if engine_kind == "postgresql":
        states = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        found = await rows(db, states)
        assert set(found) == {"idle"}
        assert len(found) < postgresql.POOL


@only_postgresql
async def test_commit_that_has_begun_is_not_cancelled(db: Database) -> None:
    for statement in (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON duties DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()",
    ):
        await change(db, statement)
    task = asyncio.create_task(write(db, "committed"))
    await asyncio.sleep(0.15)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(db, DUTIES) == ["committed"]


@only_sqlite
async def test_writer_that_is_cancelled_while_it_waits_for_the_file_leaves_the_next_one_to_begin(db: Database) -> None:
    await write(db, "before")
    with contextlib.closing(sqlite3.connect(db.url.removeprefix("sqlite:///"), isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(write(db, "cancelled"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        another.execute("ROLLBACK")

    with pytest.raises(asyncio.CancelledError):
        await task
    await write(db, "after")
    assert await rows(db, DUTIES) == ["after", "before"]


async def test_cancelled_reader_leaves_its_connection_usable(db: Database) -> None:
    async def read() -> None:
        async with db.read() as tx:
            await tx.execute(text(DUTIES))
            await asyncio.sleep(0)
            await tx.execute(text(DUTIES))

    for number in range(60):
        task = asyncio.create_task(read())
        await asyncio.sleep((number % 6) / 2000)
        task.cancel()
        await asyncio.wait([task])

    assert await asyncio.gather(*(rows(db, DUTIES) for _ in range(sqlite.READERS))) == [[]] * sqlite.READERS


async def test_reader_sees_one_snapshot(db: Database) -> None:
    await write(db, "before")

    async with db.read() as tx:
        first = (await tx.execute(text(DUTIES))).scalars().all()
        await write(db, "meanwhile")
        second = (await tx.execute(text(DUTIES))).scalars().all()

    assert first == second == ["before"]
    assert await rows(db, DUTIES) == ["before", "meanwhile"]


async def test_reader_cannot_write(db: Database) -> None:
    with pytest.raises((Unavailable, OperationalError), match="read-?only"):
        async with db.read() as tx:
            await tx.add(duties, {"name": "forbidden"})

    await write(db, "allowed")
    assert await rows(db, DUTIES) == ["allowed"]


async def test_hints_are_given_once_the_rows_are_there(db: Database) -> None:
    given: list[tuple[list[Hint], list[str]]] = []
    db.on_commit = lambda hints: given.append((list(hints), seen_from_outside(db.url, DUTIES)))

    async with db.write("test") as tx:
        tx.wake(("envoy", "a"), ("claim", 0))
        await tx.add(duties, {"name": "row"})
        assert given == []

    assert given == [([("envoy", "a"), ("claim", 0)], ["row"])]


async def test_hints_of_what_was_rolled_back_are_not_given(db: Database) -> None:
    given: list[Any] = []
    db.on_commit = given.append

    with pytest.raises(ValueError, match="on purpose"):
        async with db.write("test") as tx:
            tx.wake(("claim", 0))
            raise ValueError("on purpose")

    assert given == []


async def test_instant_is_the_same_throughout_a_transaction(db: Database) -> None:
    async with db.write("test") as tx:
        first = await tx.now()
        await asyncio.sleep(0.01)
        assert await tx.now() == first
    async with db.read() as tx:
        assert await tx.now() > first


@only_postgresql
async def test_instant_is_the_databases_own(db: Database) -> None:
    async with db.write("test") as tx:
        before = (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()
        now = await tx.now()
        after = (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()

    assert before <= now <= after


async def test_clock_that_is_given_rules_every_instant(migrated_url: str) -> None:
    clock = ManualClock(datetime(2031, 5, 1, tzinfo=UTC))
    db = open_database(migrated_url, clock=clock)

    async with db.read() as tx:
        assert await tx.now() == datetime(2031, 5, 1, tzinfo=UTC)
    clock.advance(timedelta(hours=1))
    async with db.write("test") as tx:
        assert await tx.now() == datetime(2031, 5, 1, 1, tzinfo=UTC)

    await db.close()


@only_sqlite
async def test_writer_holds_the_file_from_its_beginning(db: Database) -> None:
    async with db.write("test") as tx:
        await tx.execute(text(DUTIES))

        with (
            contextlib.closing(sqlite3.connect(db.url.removeprefix("sqlite:///"), timeout=0)) as another,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            another.execute("INSERT INTO duties VALUES ('between')")

        await tx.add(duties, {"name": "own"})
    assert await rows(db, DUTIES) == ["own"]


@only_sqlite
async def test_commit_waits_for_the_disk_and_rows_have_their_parents(db: Database) -> None:
    async with db.write("test") as tx:
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
async def test_no_session_waits_for_ever(db: Database) -> None:
    async with db.write("test") as tx:
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
async def test_lock_that_is_not_to_be_had_is_unavailable(db: Database) -> None:
    await write(db, "held")
    async with db.write("holder") as holder:
        await holder.execute(text("SELECT name FROM duties FOR UPDATE"))

        with pytest.raises(Unavailable, match="lock timeout"):
            async with db.write("test") as tx:
                await tx.execute(text("SET LOCAL lock_timeout = '20ms'"))
                await tx.execute(text("SELECT name FROM duties FOR UPDATE"))


@only_postgresql
async def test_transaction_that_does_nothing_for_too_long_loses_its_locks(db: Database) -> None:
    await write(db, "held")

    with pytest.raises(Unavailable):
        async with db.write("frozen") as tx:
            await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = '50ms'"))
            await tx.add(duties, {"name": "lost"})
            await asyncio.sleep(0.2)

    await write(db, "later")
    assert await rows(db, DUTIES) == ["held", "later"]


async def test_full_pool_is_unavailable(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, size in ((sqlite, "READERS"), (postgresql, "POOL")):
        monkeypatch.setattr(module, size, 1)
        monkeypatch.setattr(module, "POOL_SECONDS", 0.05)
    db = open_database(migrated_url)
    async with db.read():
        with pytest.raises(Unavailable, match="cannot be reached"):
            async with db.read():
                pass

    assert await rows(db, DUTIES) == []
    await db.close()


@only_sqlite
async def test_full_disk_is_said_and_nothing_of_the_group_is_acknowledged(db: Database) -> None:
    pages = await one(db, "PRAGMA page_count")
    async with db.write("limit") as tx:
        await tx.execute(text(f"PRAGMA max_page_count = {pages + 4}"))

    outcomes = await asyncio.gather(
        write(db, "small"), write(db, "x" * 200_000), write(db, "after"), return_exceptions=True
    )

    found = await rows(db, DUTIES)
    assert isinstance(outcomes[1], ResourceExhausted)
    assert (outcomes[0] is None) == ("small" in found)
    assert (outcomes[2] is None) == ("after" in found)
    async with db.write("limit") as tx:
        await tx.execute(text("PRAGMA max_page_count = 1000000"))
    await write(db, "x" * 200_000)


@only_sqlite
async def test_what_an_error_of_the_disk_took_with_it_is_not_acknowledged(db: Database) -> None:
    begun = asyncio.Event()

    async def lose_the_transaction() -> None:
        async with db.write("test") as tx:
            begun.set()
            await tx.add(duties, {"name": "lost too"})
            await tx._connection.exec_driver_sql("ROLLBACK")  # as SQLite does by itself on an I/O error
            raise OSError("disk I/O error")

    earlier = asyncio.create_task(write(db, "earlier"))
    await asyncio.sleep(0)
    losing = asyncio.create_task(lose_the_transaction())
    outcomes = await asyncio.gather(earlier, losing, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    await write(db, "later")
    assert await rows(db, DUTIES) == ["later"]


async def test_defect_in_a_statement_is_not_taken_for_an_outage(db: Database) -> None:
    with pytest.raises(IntegrityError):
        await write(db, "a", "a")

    await write(db, "b")
    assert await rows(db, DUTIES) == ["b"]


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
            tx.wake(("claim", 0))
            await tx.add(duties, {"name": "in flight"})
            server.crash()
    with pytest.raises(Unavailable):
        await write(db, "while it was away")
    with pytest.raises(Unavailable):
        await rows(db, DUTIES)
    server.start()
    await write(db, "back")

    assert await rows(db, DUTIES) == ["back", "kept"]
    assert [list(hints) for hints in given] == [[]]
