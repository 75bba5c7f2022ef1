"""Service time passes while a director is up, and stands still while none is."""

import asyncio
from datetime import timedelta

import pytest

from director.effects import ManualClock
from director.store import clock as clocks
from director.store.clock import Reading
from director.store.engine.database import Database
from tests.store.words import PATIENCE, live, only_postgresql
from tests.tables import changes, locks
from tests.world import World

TICK = timedelta(seconds=3)


@pytest.fixture
async def db(timed: World) -> Database:
    """A database whose service time is 0 and whose tick is three seconds."""
    await changes.promise_ticks(timed.db, 3)
    return timed.db


async def read(db: Database) -> Reading:
    async with db.read() as tx:
        return await clocks.read(tx)


async def tick(db: Database, *, every: timedelta = TICK) -> bool:
    async with db.write("tick") as tx:
        return await clocks.tick(tx, every=every)


async def seconds(db: Database) -> float:
    return (await read(db)).time.now


async def test_service_time_is_read_forward_between_ticks(db: Database, clock: ManualClock) -> None:
    assert await seconds(db) == 0

    clock.advance(timedelta(seconds=2.5))

    assert await seconds(db) == 2.5
    assert not (await read(db)).stale


async def test_service_time_stands_still_two_ticks_after_the_last_one(db: Database, clock: ManualClock) -> None:
    clock.advance(2 * TICK)
    assert (await seconds(db), (await read(db)).stale) == (6, False)

    clock.advance(timedelta(days=30))

    assert (await seconds(db), (await read(db)).stale) == (6, True)


async def test_tick_stores_what_has_passed(db: Database, clock: ManualClock) -> None:
    clock.advance(TICK)
    assert await tick(db)
    clock.advance(TICK)
    assert await tick(db)

    clock.advance(timedelta(seconds=1))

    assert await seconds(db) == 7
    assert (await read(db)).time.up_since == 0


async def test_tick_after_an_outage_counts_two_ticks_and_begins_a_new_stretch(db: Database, clock: ManualClock) -> None:
    clock.advance(TICK)
    await tick(db)
    clock.advance(timedelta(hours=9))

    await tick(db)

    reading = await read(db)
    assert (reading.time.now, reading.time.up_since, reading.stale) == (9, 9, False)
    clock.advance(timedelta(seconds=1))
    assert await seconds(db) == 10


async def test_gap_of_exactly_two_ticks_is_no_outage(db: Database, clock: ManualClock) -> None:
    clock.advance(2 * TICK)

    await tick(db)

    assert ((await read(db)).time.now, (await read(db)).time.up_since) == (6, 0)


async def test_clock_that_went_back_costs_the_time_since_the_last_tick_and_no_more(
    db: Database, clock: ManualClock
) -> None:
    clock.advance(TICK)
    await tick(db)
    clock.advance(-timedelta(days=1))
    assert (await seconds(db), (await read(db)).stale) == (3, False)

    await tick(db)
    clock.advance(TICK)

    assert await seconds(db) == 6


async def test_tick_is_due_when_nobody_ticked_for_its_length_or_the_clock_went_back(
    db: Database, clock: ManualClock
) -> None:
    async def due() -> bool:
        async with db.read() as tx:
            return await clocks.due(tx, every=TICK)

    assert not await due()
    clock.advance(TICK - timedelta(milliseconds=1))
    assert not await due()
    clock.advance(timedelta(milliseconds=1))
    assert await due()
    await tick(db)
    assert not await due()
    clock.advance(-timedelta(seconds=1))
    assert await due()


async def test_gap_is_measured_by_the_tick_that_was_promised(db: Database, clock: ManualClock) -> None:
    await tick(db, every=timedelta(seconds=60))

    clock.advance(timedelta(seconds=100))

    assert await seconds(db) == 100
    await tick(db)
    assert (await read(db)).time.up_since == 0


async def test_service_time_is_the_same_throughout_a_transaction(db: Database, clock: ManualClock) -> None:
    async with db.read() as tx:
        first = await clocks.now(tx)
        clock.advance(timedelta(seconds=1))
        assert await clocks.now(tx) == first


@only_postgresql
async def test_tick_leaves_it_to_the_director_that_is_ticking(db: Database, clock: ManualClock) -> None:
    clock.advance(TICK)
    async with locks.service_clock(db):
        assert not await asyncio.wait_for(tick(db), PATIENCE)

    assert await tick(db)


async def test_two_ticks_at_once_count_the_time_once(db: Database, clock: ManualClock) -> None:
    clock.advance(TICK)

    await asyncio.gather(*(tick(db) for _ in range(5)))

    assert await seconds(db) == 3


async def test_outage_costs_two_ticks_of_service_time_however_long_it_was(timed: World, clock: ManualClock) -> None:
    before = await seconds(timed.db)
    clock.advance(timedelta(days=3))
    await timed.process.ticker.tick()
    await live(timed, clock, 60)

    lived = await seconds(timed.db) - before

    assert lived == pytest.approx(60 + 2 * timed.process.runtime.settings.tick.total_seconds())
