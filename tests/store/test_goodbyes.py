"""Each registration begins a session. A call of an older session, or of one that has ended, changes nothing."""

import asyncio
from datetime import timedelta

import pytest

from director.domain.envoy import Device
from director.domain.history import EventKind
from director.effects import ManualClock
from director.errors import StaleSession
from director.store import envoys, pending
from director.store.engine.topics import Topic
from director.store.envoys import Outcome, Speaker
from tests.store.presence import PERIOD, beat, beat_of, leave, listed, online, register, shard_of
from tests.store.words import LEASE, PATIENCE, live, only_postgresql, running, waits
from tests.tables import event_rows, presence_rows, round_rows
from tests.tables.everything import contents
from tests.world import World

BUSY = Device(0, "H100")


def kinds(*outcomes: Outcome) -> list[type]:
    return [type(outcome) for outcome in outcomes]


async def happened(federation: World) -> list[str]:
    """What the federation's events say about envoy a."""
    return [event.kind for event in await event_rows.of_the_federation(federation.db) if event.actor == "a"]


async def refused(federation: World, *speakers: Speaker) -> dict[Speaker, type]:
    async with federation.db.read() as tx:
        return {each: type(error) for each, error in (await envoys.refusals(tx, speakers)).items()}


async def test_heartbeat_of_an_older_session_changes_nothing(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a", session="1")
    await register(timed.db, "a", session="2")
    before = await listed(timed.db)
    clock.advance(timedelta(seconds=1))

    [outcome] = await beat(timed.db, beat_of("a", session="1", running=True, devices=(BUSY,)))

    assert isinstance(outcome, StaleSession)
    assert await listed(timed.db) == before


async def test_heartbeats_of_two_sessions_in_one_flush_are_told_apart(timed: World) -> None:
    await register(timed.db, "a", session="1")
    await register(timed.db, "a", session="2")
    old = beat_of("a", session="1", running=True, devices=(BUSY,))
    new = beat_of("a", session="2")

    for beats, expected in (((old, new), [StaleSession, type(None)]), ((new, old), [type(None), StaleSession])):
        assert kinds(*await beat(timed.db, *beats)) == expected

        [found] = await listed(timed.db)
        assert (found.experiment_running, found.devices) == (False, ())


async def test_heartbeat_without_a_session_counts_for_the_present_one(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a", session="1")
    clock.advance(timedelta(seconds=1))

    assert await beat(timed.db, beat_of("a", session=None)) == [None]

    [found] = await listed(timed.db)
    assert found.last_seen_at == clock.now()


async def test_wait_of_an_older_session_is_refused_and_takes_nothing(federation: World) -> None:
    await running(federation, envoys=("a",))
    [old] = await federation.register("a")
    [new] = await federation.register("a")

    with pytest.raises(StaleSession):
        await federation.process.envoys.wait_experiment("a", session_id=old.id, seconds=0)

    assert await round_rows.collaborators(federation.db) == [("a", "queued")]
    assert await federation.process.envoys.wait_experiment("a", session_id=new.id, seconds=0) is not None


async def test_envoy_that_leaves_is_offline_at_once_and_its_uptime_ends(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    clock.advance(timedelta(seconds=3))
    topics: list[Topic] = []
    timed.db.on_commit = topics.extend

    assert await leave(timed.db, "a", "1")

    assert await online(timed.db) == []
    assert await presence_rows.sessions(timed.db) == [("a", "2030-01", 3.0, False)]
    assert await presence_rows.last_seen(timed.db) == (await presence_rows.stretches(timed.db))[0][1]
    assert (await happened(timed))[-1] == EventKind.ENVOY_LEFT
    assert set(topics) == {Topic.envoy("a"), Topic.federation()}


async def test_envoy_that_left_before_a_director_came_up_again_stays_offline(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await leave(timed.db, "a", "1")
    clock.advance(timedelta(days=1))
    await timed.process.ticker.tick()

    await timed.process.periodic_jobs.reconcile_sessions()

    assert await online(timed.db) == []
    assert await presence_rows.envoys_with_open_sessions(timed.db) == []


async def test_envoy_that_left_is_not_counted_on_for_a_new_experiment(timed: World) -> None:
    await register(timed.db, "a")
    await register(timed.db, "b")
    await leave(timed.db, "a", "1")
    await timed.submit()

    async with timed.db.write("admission") as tx:
        [found] = (await pending.read(tx, lease=LEASE)).pending

    assert {each.envoy: each.online for each in found.candidates} == {"a": False, "b": True}


async def test_session_that_ended_is_refused_everything(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await leave(timed.db, "a", "1")
    before = await listed(timed.db)
    clock.advance(timedelta(seconds=1))

    outcomes = await beat(timed.db, beat_of("a", session="1", running=True))

    assert kinds(*outcomes) == [StaleSession]
    assert await listed(timed.db) == before
    assert await refused(timed, ("a", "1"), ("a", None)) == {("a", "1"): StaleSession}


async def test_heartbeat_without_a_session_brings_an_envoy_back_that_left(timed: World) -> None:
    await register(timed.db, "a")
    await leave(timed.db, "a", "1")
    topics: list[Topic] = []
    timed.db.on_commit = topics.extend

    assert await beat(timed.db, beat_of("a", session=None)) == [None]

    assert await online(timed.db) == ["a"]
    assert set(topics) == {Topic.admission(), Topic.envoy("a")}


async def test_late_goodbye_does_not_hide_the_successor(timed: World) -> None:
    await register(timed.db, "a", session="1")
    await register(timed.db, "a", session="2")
    before = await contents(timed.db)

    assert not await leave(timed.db, "a", "1")

    assert await online(timed.db) == ["a"]
    assert await contents(timed.db) == before


async def test_goodbye_sent_again_changes_nothing(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await leave(timed.db, "a", "1")
    before = await contents(timed.db)
    clock.advance(timedelta(seconds=1))

    assert not await leave(timed.db, "a", "1")

    assert await contents(timed.db) == before


async def test_goodbye_of_an_envoy_that_never_registered_changes_nothing(timed: World) -> None:
    before = await contents(timed.db)

    assert not await leave(timed.db, "stranger", "1")

    assert await contents(timed.db) == before


async def test_registering_begins_a_new_session_and_brings_the_envoy_back(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a", session="1")
    await leave(timed.db, "a", "1")
    clock.advance(timedelta(seconds=5))

    await register(timed.db, "a", session="2")

    assert await online(timed.db) == ["a"]
    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [False, True]
    assert await beat(timed.db, beat_of("a", session="2")) == [None]
    assert await refused(timed, ("a", "1"), ("a", "2")) == {("a", "1"): StaleSession}
    assert (await happened(timed))[-3:] == ["envoy_left", "shard_registered", "envoy_online"]


async def test_silent_envoy_that_says_goodbye_late_ends_no_later_than_it_was_heard_of(
    timed: World, clock: ManualClock
) -> None:
    await register(timed.db, "a")
    await live(timed, clock, 100)
    await timed.process.periodic_jobs.reconcile_sessions()
    before = await presence_rows.stretches(timed.db)

    assert await leave(timed.db, "a", "1")

    assert await presence_rows.stretches(timed.db) == before


@only_postgresql
async def test_goodbye_waits_for_a_registration_that_is_under_way_and_then_is_too_late(timed: World) -> None:
    await register(timed.db, "a", session="1")
    async with timed.db.write("register") as tx:
        await envoys.register(tx, shard_of("a"), session_id="2", period=PERIOD)
        leaving = asyncio.create_task(leave(timed.db, "a", "1"))
        assert await waits(leaving)

    assert not await leaving
    assert await online(timed.db) == ["a"]


@only_postgresql
async def test_heartbeat_passes_by_a_registration_that_is_under_way(timed: World) -> None:
    await register(timed.db, "a", session="1")
    async with timed.db.write("register") as tx:
        await envoys.register(tx, shard_of("a"), session_id="2", period=PERIOD)
        beating = beat(timed.db, beat_of("a", session="1", running=True))
        assert await asyncio.wait_for(beating, PATIENCE) == [None]

    [found] = await listed(timed.db)
    assert not found.experiment_running


@only_postgresql
async def test_heartbeat_is_refused_if_a_new_session_begins_while_it_is_looked_at(
    timed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(timed.db, "a", session="1")
    async with timed.db.write("beat") as tx:
        execute = tx.execute

        async def interrupted(statement: object, parameters: object = None) -> object:
            if statement is envoys.FREE:
                await register(timed.db, "a", session="2")
            return await execute(statement, parameters)  # type: ignore[arg-type]

        monkeypatch.setattr(tx, "execute", interrupted)
        beats = [beat_of("a", session="1", running=True)]
        outcomes = await envoys.beat(tx, beats, period=PERIOD, lease=LEASE)

    assert kinds(*outcomes) == [StaleSession]
    [found] = await listed(timed.db)
    assert not found.experiment_running


@only_postgresql
async def test_uptime_that_an_envoy_ends_while_sessions_are_compared_stays_as_it_is(
    timed: World, clock: ManualClock
) -> None:
    await register(timed.db, "a")
    clock.advance(timedelta(seconds=70))
    await timed.process.ticker.tick()
    await beat(timed.db, beat_of("a"))
    clock.advance(timedelta(seconds=5))
    async with timed.db.write("leave") as tx:
        assert await envoys.leave(tx, "a", "1")
        comparing = asyncio.create_task(timed.process.periodic_jobs.reconcile_sessions())
        assert await waits(comparing)

    await comparing

    assert await presence_rows.sessions(timed.db) == [("a", "2030-01", 75.0, False)]
