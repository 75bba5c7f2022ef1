"""Uptime is kept as stretches of time, each within one month, without a row per heartbeat."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from director.domain.commands import Heartbeat
from director.effects import ManualClock
from director.store import federations, sessions
from tests.store.words import LEASE, PATIENCE, live, only_postgresql, waits
from tests.tables import event_rows, locks, presence_rows
from tests.tables.statements import rows
from tests.world import World

PERIOD = 60.0
ABSENT = 2 * PERIOD + 1


@pytest.fixture
def clock() -> ManualClock:
    """A clock shortly before the end of a month."""
    return ManualClock(datetime(2030, 1, 31, 23, 50, tzinfo=UTC))


async def kinds(federation: World) -> list[str]:
    """What envoy a did."""
    return [event.kind for event in await event_rows.of_the_federation(federation.db) if event.actor == "a"]


async def reconcile(federation: World) -> bool:
    async with federation.db.write("sessions") as tx:
        return await sessions.reconcile(tx, lease=LEASE)


async def beat(federation: World, clock: ManualClock, seconds: float) -> None:
    """Let time pass in which envoy a sends its heartbeats and the sessions are looked at."""
    for _ in range(int(seconds // PERIOD)):
        await live(federation, clock, PERIOD)
        await federation.process.envoys.heartbeat(Heartbeat("a", False))
        await reconcile(federation)


async def test_session_begins_with_the_registration_and_follows_the_heartbeats(
    timed: World, clock: ManualClock
) -> None:
    await timed.register("a")

    await beat(timed, clock, 5 * PERIOD)

    [(envoy, month, seconds, is_open)] = await presence_rows.sessions(timed.db)
    assert (envoy, month, is_open) == ("a", "2030-01", True)
    assert seconds == pytest.approx(5 * PERIOD, abs=0.01)
    assert await kinds(timed) == ["shard_registered", "envoy_online"]


async def test_silent_envoys_session_ends_where_it_was_heard_of_last(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    await beat(timed, clock, 2 * PERIOD)
    await live(timed, clock, ABSENT)

    assert not await reconcile(timed)
    assert not await reconcile(timed)

    [(_, _, seconds, is_open)] = await presence_rows.sessions(timed.db)
    assert (seconds, is_open) == (pytest.approx(2 * PERIOD, abs=0.01), False)
    assert await kinds(timed) == ["shard_registered", "envoy_online", "envoy_offline"]


async def test_envoy_that_is_back_begins_another_session(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    await live(timed, clock, ABSENT)
    await reconcile(timed)
    await timed.process.envoys.heartbeat(Heartbeat("a", False))

    assert await reconcile(timed)

    assert [(month, is_open) for _, month, _, is_open in await presence_rows.sessions(timed.db)] == [
        ("2030-01", False),
        ("2030-01", True),
    ]
    assert (await kinds(timed))[-2:] == ["envoy_offline", "envoy_online"]


@pytest.mark.parametrize("registers", [True, False])
async def test_sessions_do_not_overlap_where_the_clock_went_back_between_them(
    timed: World, clock: ManualClock, registers: bool
) -> None:
    await timed.register("a")
    await beat(timed, clock, 5 * PERIOD)
    await live(timed, clock, ABSENT)
    await reconcile(timed)
    clock.advance(-timedelta(seconds=5 * PERIOD + ABSENT))
    await timed.process.ticker.tick()

    if registers:
        await timed.register("a")
    await timed.process.envoys.heartbeat(Heartbeat("a", False))
    await reconcile(timed)

    [first, second] = await presence_rows.stretches(timed.db)
    assert second == (first[1], None)


async def test_session_is_cut_where_a_month_ends(timed: World, clock: ManualClock) -> None:
    await timed.register("a")

    await beat(timed, clock, 16 * PERIOD)

    found = await rows(timed.db, "SELECT month, online_at, offline_at, online_seconds FROM report_envoy_uptime")
    [(january, _, cut, first), (february, begun, _, second)] = sorted(found, key=lambda row: str(row[0]))
    assert (january, february) == ("2030-01", "2030-02")
    assert str(cut)[:19] == str(begun)[:19] == "2030-02-01 00:00:00"
    assert (first, second) == (600.0, pytest.approx(6 * PERIOD, abs=PERIOD))
    assert await kinds(timed) == ["shard_registered", "envoy_online"]


async def test_outage_of_the_director_does_not_end_a_session(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    clock.advance(timedelta(minutes=5))
    await timed.process.ticker.tick()

    await reconcile(timed)

    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [True]


async def test_nothing_is_decided_about_sessions_before_an_outage_is_accounted_for(
    timed: World, clock: ManualClock
) -> None:
    await timed.register("a")
    await live(timed, clock, ABSENT)
    clock.advance(timedelta(minutes=5))

    await timed.process.periodic_jobs.reconcile_sessions()
    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [True]

    await timed.process.ticker.tick()
    await timed.process.periodic_jobs.reconcile_sessions()
    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [False]


async def test_envoy_has_one_open_session(timed: World) -> None:
    await timed.register("a")

    async def open_one() -> bool:
        async with timed.db.write("open") as tx:
            return await sessions.open_one(tx, "a")

    assert not any(await asyncio.gather(*(open_one() for _ in range(4))))
    assert len(await presence_rows.sessions(timed.db)) == 1


@only_postgresql
async def test_session_that_a_registration_opens_in_that_moment_stays_the_only_one(
    timed: World, clock: ManualClock
) -> None:
    await timed.register("a")
    await live(timed, clock, ABSENT)
    await reconcile(timed)
    await timed.process.envoys.heartbeat(Heartbeat("a", False))
    async with timed.db.write("register") as tx:
        assert await sessions.open_one(tx, "a")
        looking = asyncio.create_task(reconcile(timed))
        assert await waits(looking)

    await looking

    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [False, True]


async def test_open_session_is_not_written_at_every_look(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    before = await presence_rows.last_seen(timed.db)
    clock.advance(timedelta(seconds=5))
    await timed.process.envoys.heartbeat(Heartbeat("a", False))

    await reconcile(timed)

    assert await presence_rows.last_seen(timed.db) == before


@only_postgresql
async def test_sessions_are_left_to_the_director_that_looks_at_them(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    await live(timed, clock, ABSENT)
    async with locks.periodic_job(timed.db, federations.SESSIONS):
        await asyncio.wait_for(timed.process.periodic_jobs.reconcile_sessions(), PATIENCE)

    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [True]
