"""A transaction is committed as a whole before anybody is told, or leaves nothing, whatever happens meanwhile."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Pool, event, text
from sqlalchemy.exc import IntegrityError, OperationalError

from director.effects import ManualClock
from director.errors import Unavailable
from director.store.engine import postgresql, sqlite
from director.store.engine.database import Database
from director.store.engine.opening import open_database
from director.store.engine.topics import Topic
from tests.store.words import PATIENCE, only_postgresql, only_sqlite
from tests.tables import scratch_rows
from tests.tables.scratch_rows import write
from tests.tables.statements import rows


@contextlib.contextmanager
def seen(where: type, what: str, then: Callable[[], object] = lambda: None) -> Iterator[list[Any]]:
    """See what engines or pools do, and do something at that moment."""
    happened: list[Any] = []

    def see(subject: Any, *_: Any) -> None:
        happened.append(subject)
        then()

    event.listen(where, what, see)
    yield happened
    event.remove(where, what, see)


@pytest.fixture
def commits() -> Iterator[list[Any]]:
    """Every COMMIT that an engine sends."""
    with seen(Engine, "commit") as happened:
        yield happened


@pytest.mark.parametrize("failing", [0, 1, 4, 8], ids=["the first", "the second", "one between", "the last"])
async def test_failing_writer_rolls_back_alone(plain: Database, failing: int) -> None:
    writers = [write(plain, f"{number}a", f"{number}b", fail=number == failing) for number in range(9)]

    outcomes = await asyncio.gather(*writers, return_exceptions=True)

    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [failing]
    expected = [f"{number}{part}" for number in range(9) for part in "ab" if number != failing]
    assert await scratch_rows.names(plain) == expected


async def test_writer_that_breaks_a_constraint_rolls_back_alone(plain: Database) -> None:
    await write(plain, "taken")

    outcomes = await asyncio.gather(
        write(plain, "before"), write(plain, "half", "taken"), write(plain, "after"), return_exceptions=True
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), IntegrityError, type(None)]
    assert await scratch_rows.names(plain) == ["after", "before", "taken"]


@only_sqlite
async def test_writers_that_wait_share_a_commit(plain: Database, commits: list[Any]) -> None:
    await asyncio.gather(*(write(plain, f"{number:02}") for number in range(20)))

    assert len(commits) == 1
    assert len(await scratch_rows.names(plain)) == 20


@only_sqlite
async def test_writer_is_not_answered_before_the_common_commit(plain: Database) -> None:
    seen: list[Any] = []

    async def answered(name: str) -> None:
        await write(plain, name)
        seen.append(scratch_rows.names_from_outside(plain.url))

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
    found = await scratch_rows.names(plain)
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
            for again in range(1 + number % 2):  # once, or again while the connection is being closed
                asyncio.get_running_loop().call_later((number * 7 % 50 + again) / 1000, task.cancel)
    await asyncio.wait(tasks)

    found = await scratch_rows.names(plain)
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
    await scratch_rows.commit_slowly(plain)
    task = asyncio.create_task(write(plain, "committed"))
    while not await rows(plain, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        await asyncio.sleep(0.01)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await scratch_rows.names(plain) == ["committed"]


@only_sqlite
async def test_statement_that_takes_the_group_with_it_after_its_caller_was_cancelled_is_not_overlooked(
    plain: Database,
) -> None:
    async def lose_the_transaction() -> None:
        async with plain.write("test") as tx:
            asyncio.get_running_loop().call_later(0.02, losing.cancel)
            await scratch_rows.lose_the_transaction_slowly(tx)

    earlier = asyncio.create_task(write(plain, "earlier"))
    await asyncio.sleep(0)
    losing = asyncio.create_task(lose_the_transaction())
    outcomes = await asyncio.gather(earlier, losing, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable, asyncio.CancelledError]
    await write(plain, "later")
    assert await scratch_rows.names(plain) == ["later"]


@pytest.fixture
async def single(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database with one connection, or one for readers, so that the next caller gets what the last one left."""
    for module, size in ((sqlite, "READERS"), (postgresql, "POOL")):
        monkeypatch.setattr(module, size, 1)
        monkeypatch.setattr(module, "POOL_SECONDS", PATIENCE)
    opened = open_database(migrated_url)
    yield opened
    await opened.close()


@pytest.mark.parametrize("writing", [True, False], ids=["writer", "reader"])
async def test_caller_that_is_cancelled_while_it_rolls_back_gives_its_connection_back(
    single: Database, writing: bool
) -> None:
    async def fail() -> None:
        async with single.write("test") if writing else single.read() as tx:
            await scratch_rows.names(tx)
            raise ValueError("on purpose")

    with seen(Engine, "rollback", lambda: failing.cancel()) as rolled_back, seen(Pool, "invalidate") as lost:
        failing = asyncio.create_task(fail())
        await asyncio.wait([failing])

    assert failing.cancelled()
    assert (len(rolled_back), len(lost)) == (1, 0)
    await write(single, "later")
    assert await scratch_rows.names(single) == ["later"]


@only_postgresql
async def test_caller_that_is_cancelled_again_while_its_connection_is_closed_leaves_nothing_behind(
    single: Database,
) -> None:
    async def wait() -> None:
        async with single.write("test") as tx:
            await scratch_rows.add(tx, "half")
            asyncio.get_running_loop().call_later(0.01, waiting.cancel)
            await tx.execute(text("SELECT pg_sleep(2)"))

    with seen(Pool, "invalidate", lambda: waiting.cancel()) as closed:
        waiting = asyncio.create_task(wait())
        await asyncio.wait([waiting])

    assert waiting.cancelled()
    assert len(closed) == 1
    await write(single, "later")
    assert await scratch_rows.names(single) == ["later"]


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
    assert await scratch_rows.names(plain) == ["after", "before"]


async def test_cancelled_reader_leaves_its_connection_usable(plain: Database) -> None:
    async def read() -> None:
        async with plain.read() as tx:
            await scratch_rows.names(tx)
            await asyncio.sleep(0)
            await scratch_rows.names(tx)

    for number in range(60):
        task = asyncio.create_task(read())
        await asyncio.sleep((number % 6) / 2000)
        task.cancel()
        await asyncio.wait([task])

    assert await asyncio.gather(*(scratch_rows.names(plain) for _ in range(sqlite.READERS))) == [[]] * sqlite.READERS


async def test_reader_sees_one_snapshot(plain: Database) -> None:
    await write(plain, "before")

    async with plain.read() as tx:
        first = await scratch_rows.names(tx)
        await write(plain, "meanwhile")
        second = await scratch_rows.names(tx)

    assert first == second == ["before"]
    assert await scratch_rows.names(plain) == ["before", "meanwhile"]


async def test_reader_cannot_write(plain: Database) -> None:
    with pytest.raises((Unavailable, OperationalError), match=r"read-?only"):
        async with plain.read() as tx:
            await scratch_rows.add(tx, "forbidden")

    await write(plain, "allowed")
    assert await scratch_rows.names(plain) == ["allowed"]


async def test_topics_are_given_once_the_rows_are_there(plain: Database) -> None:
    given: list[tuple[list[Topic], list[str]]] = []
    plain.on_commit = lambda topics: given.append((list(topics), scratch_rows.names_from_outside(plain.url)))

    async with plain.write("test") as tx:
        tx.wake(Topic.envoy("a"), Topic.claim())
        await scratch_rows.add(tx, "row")
        assert given == []

    assert given == [([Topic.envoy("a"), Topic.claim()], ["row"])]


async def test_topics_of_what_was_rolled_back_are_not_given(plain: Database) -> None:
    given: list[Any] = []
    plain.on_commit = given.append

    with pytest.raises(ValueError, match="on purpose"):
        async with plain.write("test") as tx:
            tx.wake(Topic.claim())
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
