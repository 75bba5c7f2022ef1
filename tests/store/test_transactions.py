"""A transaction is committed as a whole before anybody is told, or leaves nothing, whatever happens meanwhile."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from director.effects import ManualClock
from director.errors import Unavailable
from director.store.engine import postgresql, sqlite
from director.store.engine.database import Database, Hint
from director.store.engine.opening import open_database
from director.store.tables import duties
from tests.store.words import DUTIES, change, only_postgresql, only_sqlite, rows, seen_from_outside, write


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
async def test_failing_writer_rolls_back_alone(plain: Database, failing: int) -> None:
    writers = [write(plain, f"{number}a", f"{number}b", fail=number == failing) for number in range(9)]

    outcomes = await asyncio.gather(*writers, return_exceptions=True)

    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [failing]
    expected = [f"{number}{part}" for number in range(9) for part in "ab" if number != failing]
    assert await rows(plain, DUTIES) == expected


async def test_writer_that_breaks_a_constraint_rolls_back_alone(plain: Database) -> None:
    await write(plain, "taken")

    outcomes = await asyncio.gather(
        write(plain, "before"), write(plain, "half", "taken"), write(plain, "after"), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert await rows(plain, DUTIES) == ["after", "before", "taken"]


@only_sqlite
async def test_writers_that_wait_share_a_commit(plain: Database, commits: list[Any]) -> None:
    await asyncio.gather(*(write(plain, f"{number:02}") for number in range(20)))

    assert len(commits) == 1
    assert len(await rows(plain, DUTIES)) == 20


@only_sqlite
async def test_writer_is_not_answered_before_the_common_commit(plain: Database) -> None:
    seen: list[Any] = []

    async def answered(name: str) -> None:
        await write(plain, name)
        seen.append(seen_from_outside(plain.url, DUTIES))

    await asyncio.gather(answered("a"), answered("b"), answered("c"))

    assert seen == [["a", "b", "c"]] * 3


@pytest.mark.parametrize("steps", range(0, 36, 3))
async def test_cancelled_writer_leaves_all_or_nothing_and_disturbs_nobody(plain: Database, steps: int) -> None:
    await write(plain, "connected")
    before = asyncio.create_task(write(plain, "a1", "a2"))
    cancelled = asyncio.create_task(write(plain, "b1", "b2"))
    after = asyncio.create_task(write(plain, "c1", "c2"))
    for _ in range(steps):
        await asyncio.sleep(0.0002)
    cancelled.cancel()

    outcomes = await asyncio.gather(before, cancelled, after, return_exceptions=True)

    assert outcomes[0] is None
    assert outcomes[2] is None
    await write(plain, "later")
    found = await rows(plain, DUTIES)
    half = [name for name in found if name.startswith("b")]
    assert half in ([], ["b1", "b2"])
    assert half or outcomes[1] is not None, "what was acknowledged is there"
    assert [name for name in found if name not in half] == ["a1", "a2", "c1", "c2", "connected", "later"]


async def test_nothing_acknowledged_is_lost_and_nothing_is_half_done_under_random_cancels(
    plain: Database, engine_kind: str
) -> None:
    acknowledged: set[int] = set()

    async def writer(number: int) -> None:
        await write(plain, f"{number:03}a", f"{number:03}b")
        acknowledged.add(number)

    tasks = [asyncio.create_task(writer(number)) for number in range(120)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0)
        if number % 3 == 0:
            asyncio.get_running_loop().call_later((number * 7 % 50) / 1000, task.cancel)
    await asyncio.wait(tasks)

    found = await rows(plain, DUTIES)
    whole = {int(name[:3]) for name in found}
    assert found == [f"{number:03}{part}" for number in sorted(whole) for part in "ab"]
    assert acknowledged <= whole
    assert {number for number in range(120) if number % 3} <= acknowledged
    if engine_kind == "postgresql":
        states = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        found = await rows(plain, states)
        assert set(found) == {"idle"}
        assert len(found) < postgresql.POOL


@only_postgresql
async def test_commit_that_has_begun_is_not_cancelled(plain: Database) -> None:
    for statement in (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON duties DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()",
    ):
        await change(plain, statement)
    task = asyncio.create_task(write(plain, "committed"))
    while not await rows(plain, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        await asyncio.sleep(0.01)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(plain, DUTIES) == ["committed"]


@only_sqlite
async def test_writer_cancelled_while_it_waits_for_the_file_leaves_the_next_one_to_begin(
    plain: Database,
) -> None:
    await write(plain, "before")
    with contextlib.closing(sqlite3.connect(plain.url.removeprefix("sqlite:///"), isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(write(plain, "cancelled"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)
        another.execute("ROLLBACK")

    with pytest.raises(asyncio.CancelledError):
        await task
    await write(plain, "after")
    assert await rows(plain, DUTIES) == ["after", "before"]


async def test_cancelled_reader_leaves_its_connection_usable(plain: Database) -> None:
    async def read() -> None:
        async with plain.read() as tx:
            await tx.execute(text(DUTIES))
            await asyncio.sleep(0)
            await tx.execute(text(DUTIES))

    for number in range(60):
        task = asyncio.create_task(read())
        await asyncio.sleep((number % 6) / 2000)
        task.cancel()
        await asyncio.wait([task])

    assert await asyncio.gather(*(rows(plain, DUTIES) for _ in range(sqlite.READERS))) == [[]] * sqlite.READERS


async def test_reader_sees_one_snapshot(plain: Database) -> None:
    await write(plain, "before")

    async with plain.read() as tx:
        first = (await tx.execute(text(DUTIES))).scalars().all()
        await write(plain, "meanwhile")
        second = (await tx.execute(text(DUTIES))).scalars().all()

    assert first == second == ["before"]
    assert await rows(plain, DUTIES) == ["before", "meanwhile"]


async def test_reader_cannot_write(plain: Database) -> None:
    with pytest.raises((Unavailable, OperationalError), match=r"read-?only"):
        async with plain.read() as tx:
            await tx.add(duties, {"name": "forbidden"})

    await write(plain, "allowed")
    assert await rows(plain, DUTIES) == ["allowed"]


async def test_hints_are_given_once_the_rows_are_there(plain: Database) -> None:
    given: list[tuple[list[Hint], list[str]]] = []
    plain.on_commit = lambda hints: given.append((list(hints), seen_from_outside(plain.url, DUTIES)))

    async with plain.write("test") as tx:
        tx.wake(("envoy", "a"), ("claim", 0))
        await tx.add(duties, {"name": "row"})
        assert given == []

    assert given == [([("envoy", "a"), ("claim", 0)], ["row"])]


async def test_hints_of_what_was_rolled_back_are_not_given(plain: Database) -> None:
    given: list[Any] = []
    plain.on_commit = given.append

    with pytest.raises(ValueError, match="on purpose"):
        async with plain.write("test") as tx:
            tx.wake(("claim", 0))
            raise ValueError("on purpose")

    assert given == []


async def test_instant_is_the_same_throughout_a_transaction(plain: Database) -> None:
    async with plain.write("test") as tx:
        first = await tx.now()
        await asyncio.sleep(0.01)
        assert await tx.now() == first
    async with plain.read() as tx:
        assert await tx.now() > first


@only_postgresql
async def test_instant_is_the_databases_own(plain: Database) -> None:
    async with plain.write("test") as tx:
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
