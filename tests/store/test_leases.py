"""A director lives as long as its lease; a director whose lease expired stays dead."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from director.domain.types import DirectorId
from director.effects import ManualClock
from director.store import leases
from director.store.engine.database import Database
from tests.store.words import LEASE, PATIENCE, die, enter, only_postgresql
from tests.tables import locks, presence_rows
from tests.world import World

SECOND = timedelta(seconds=1)


async def reap(db: Database, **how: Any) -> list[str]:
    async with db.write("reap") as tx:
        return [*await leases.reap(tx, lease=LEASE, **how)]


@pytest.fixture
async def timed_db(timed: World) -> Database:
    """The database of the federation whose time stands still."""
    return timed.db


async def renew(db: Database, director: str) -> bool:
    async with db.write("renew") as tx:
        return await leases.renew(tx, DirectorId(director), lease=LEASE)


async def test_lease_lasts_from_its_last_renewal(timed_db: Database, clock: ManualClock) -> None:
    await enter(timed_db, "one")
    clock.advance(LEASE - SECOND)
    assert await renew(timed_db, "one")
    clock.advance(LEASE - SECOND)
    assert await renew(timed_db, "one")

    clock.advance(LEASE)

    assert not await renew(timed_db, "one")


async def test_lease_of_the_dead_is_not_renewed(timed_db: Database, clock: ManualClock) -> None:
    await enter(timed_db, "one")
    await die(timed_db, "one")

    assert not await renew(timed_db, "one")
    assert not await renew(timed_db, "nobody")


async def test_those_whose_lease_expired_are_reaped_once(timed_db: Database, clock: ManualClock) -> None:
    await enter(timed_db, "early")
    clock.advance(SECOND)
    await enter(timed_db, "late")
    clock.advance(LEASE - SECOND)

    assert "early" in await reap(timed_db)

    assert await reap(timed_db) == []
    assert await presence_rows.directors_alive(timed_db) == ["late"]
    clock.advance(SECOND)
    assert await reap(timed_db) == ["late"]


async def test_lease_from_a_clock_that_went_back_is_reaped(timed_db: Database, clock: ManualClock) -> None:
    await reap(timed_db, survivor=DirectorId("nobody"))
    await enter(timed_db, "one")
    clock.advance(-LEASE)
    assert await reap(timed_db) == []

    clock.advance(-SECOND)

    assert await reap(timed_db) == ["one"]


async def test_survivor_reaps_all_others_whatever_their_lease(timed_db: Database) -> None:
    await enter(timed_db, "me", "two", "three")

    dead = await reap(timed_db, survivor=DirectorId("me"))

    assert {"two", "three"} < {*dead}
    assert await presence_rows.directors_alive(timed_db) == ["me"]


async def test_retired_director_is_dead(timed_db: Database) -> None:
    await enter(timed_db, "one")

    async with timed_db.write("retire") as tx:
        await leases.retire(tx, DirectorId("one"))

    assert not await renew(timed_db, "one")
    assert "one" not in await reap(timed_db, survivor=DirectorId("me"))


async def test_director_that_was_declared_dead_keeps_that_instant_when_it_leaves(
    timed_db: Database, clock: ManualClock
) -> None:
    await enter(timed_db, "one")
    clock.advance(LEASE)
    await reap(timed_db)
    before = await presence_rows.lease(timed_db, "one")
    clock.advance(SECOND)

    async with timed_db.write("retire") as tx:
        await leases.retire(tx, DirectorId("one"))

    assert await presence_rows.lease(timed_db, "one") == before


async def test_next_expiry_is_that_of_the_first_other_director_alive(timed: World, clock: ManualClock) -> None:
    me = timed.process.presence.director_id
    await enter(timed.db, "dead", lease=SECOND)
    await reap(timed.db, survivor=me)

    async def expiry() -> float | None:
        async with timed.db.read() as tx:
            return await leases.next_expiry(tx, but=me)

    assert await expiry() is None
    await enter(timed.db, "one", lease=LEASE)
    await enter(timed.db, "two", lease=2 * LEASE)
    clock.advance(3 * SECOND)
    assert await expiry() == 7.0


@only_postgresql
async def test_reaping_is_not_stopped_by_a_renewal_that_is_stuck(db: Database) -> None:
    await enter(db, "stuck", "other", lease=timedelta(seconds=-1))
    async with locks.director(db, "stuck"):
        assert await asyncio.wait_for(reap(db), PATIENCE) == ["other"]

    assert await reap(db) == ["stuck"]
