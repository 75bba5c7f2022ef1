"""Envoys are entered once however often they register, and their heartbeats say who is there."""

import asyncio
from datetime import timedelta

import pytest

from director.domain.commands import Heartbeat
from director.domain.envoy import Device, Envoy, Pulse
from director.domain.history import EventKind
from director.effects import ManualClock
from director.errors import EnvoyNotFound
from director.services.runtime import Caller
from director.store import clock as clocks
from director.store import envoys
from director.store.engine.topics import Topic
from tests.store.presence import LIMIT, PERIOD, beat, beat_of, listed, online, register, shard_of
from tests.store.words import LEASE, PATIENCE, live, only_postgresql, running
from tests.tables import event_rows, locks, presence_rows
from tests.world import RESEARCHER, World, world

DEVICE = Device(0, "H100", 80, 7, 0.5, "550.54")


async def test_shard_is_read_as_it_was_registered(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "ä", samples=3, description="digits ✓", sdk_version="0.3.0", python_version="3.12.4")

    assert await listed(timed.db) == [
        Envoy(
            shard=shard_of("ä", samples=3, description="digits ✓"),
            online=True,
            experiment_running=False,
            last_seen_at=clock.now(),
            heartbeat_period=PERIOD,
            registered_at=clock.now(),
            sdk_version="0.3.0",
            python_version="3.12.4",
        )
    ]


async def test_envoy_that_registers_again_is_the_same_envoy_with_a_new_shard(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a", samples=3, sdk_version="0.3.0", python_version="3.12.4")
    first = clock.now()
    await beat(timed.db, beat_of("a", running=True, devices=(DEVICE,)))
    clock.advance(timedelta(seconds=5))

    await register(timed.db, "a", samples=4, description="more", sdk_version="0.3.1", python_version="3.13.0")

    [found] = await listed(timed.db)
    assert found.shard == shard_of("a", samples=4, description="more")
    assert (found.registered_at, found.last_seen_at) == (first, clock.now())
    assert (found.experiment_running, found.devices) == (True, (DEVICE,))
    assert (found.sdk_version, found.python_version) == ("0.3.1", "3.13.0")
    assert len(await presence_rows.sessions(timed.db)) == 1


async def test_registration_is_recorded_and_wakes_admission(timed: World) -> None:
    topics: list[Topic] = []
    timed.db.on_commit = topics.extend
    await register(timed.db, "a", samples=3)
    await register(timed.db, "a", samples=4)

    _, *found = await event_rows.of_the_federation(timed.db)
    assert [(each.kind, each.actor, each.details) for each in found] == [
        (EventKind.SHARD_REGISTERED, "a", {"samples": 3}),
        (EventKind.ENVOY_ONLINE, "a", {}),
        (EventKind.SHARD_REGISTERED, "a", {"samples": 4}),
    ]
    assert set(topics) == {Topic.admission(), Topic.envoy("a"), Topic.federation()}


async def test_envoy_that_registers_many_times_at_once_is_one_envoy(timed: World) -> None:
    await asyncio.gather(*(register(timed.db, "a", samples=number) for number in range(8)))

    assert len(await listed(timed.db)) == 1
    assert len(await presence_rows.sessions(timed.db)) == 1


async def test_envoy_is_online_until_it_was_silent_for_its_limit(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await live(timed, clock, LIMIT - 0.5)
    assert await online(timed.db) == ["a"]

    await live(timed, clock, 1)

    assert await online(timed.db) == []
    async with timed.db.read() as tx:
        seen = (await envoys.liveness(tx, ["a"], lease=LEASE))["a"]
        assert seen.absence(await clocks.now(tx)) == pytest.approx(LIMIT + 0.5)


async def test_heartbeat_keeps_an_envoy_online_and_brings_it_back(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await live(timed, clock, LIMIT - 1)
    topics: list[Topic] = []
    timed.db.on_commit = topics.extend
    await beat(timed.db, beat_of("a"))
    assert topics == []
    await live(timed, clock, LIMIT - 1)
    assert await online(timed.db) == ["a"]
    await live(timed, clock, 2)
    assert await online(timed.db) == []

    await beat(timed.db, beat_of("a"))

    assert await online(timed.db) == ["a"]
    assert topics == [Topic.admission(), Topic.envoy("a")]


async def test_outage_of_the_director_makes_nobody_absent_and_brings_nobody_back(
    timed: World, clock: ManualClock
) -> None:
    await register(timed.db, "gone")
    await live(timed, clock, LIMIT + 20)
    await register(timed.db, "there")
    clock.advance(timedelta(days=2))
    await timed.process.ticker.tick()
    assert await online(timed.db) == ["there"]

    await live(timed, clock, LIMIT - 1)
    assert await online(timed.db) == ["there"]

    await live(timed, clock, 2)
    assert await online(timed.db) == []


async def test_heartbeats_of_many_are_stored_at_once(timed: World, clock: ManualClock) -> None:
    for name in ("a", "b", "c"):
        await register(timed.db, name)
    clock.advance(timedelta(seconds=3))

    beats = [beat_of(name, running=name == "a", devices=(DEVICE,)) for name in ("c", "a", "stranger")]
    outcomes = await beat(timed.db, *beats)

    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), EnvoyNotFound]
    found = {each.name: each for each in await listed(timed.db)}
    assert {name: each.last_seen_at == clock.now() for name, each in found.items()} == {
        "a": True,
        "b": False,
        "c": True,
    }
    assert {name: each.experiment_running for name, each in found.items()} == {"a": True, "b": False, "c": False}
    assert (found["a"].devices, found["b"].devices) == ((DEVICE,), ())


async def test_heartbeat_is_answered_with_what_the_envoy_should_be_working_on(federation: World) -> None:
    await running(federation)
    assert await beat(federation.db, beat_of("a")) == [None]
    given = await federation.wait("a")

    assert await beat(federation.db, beat_of("b"), beat_of("a")) == [None, given]
    assert given.experiment_uid == (await federation.row("experiment")).uid


async def test_unknown_envoy_is_told_so_and_the_others_are_stored(federation: World) -> None:
    await federation.register("a", "b")

    answers = await asyncio.gather(
        *(federation.process.envoys.heartbeat(Heartbeat(name, True)) for name in ("a", "stranger", "b")),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [Pulse, EnvoyNotFound, Pulse]
    assert await presence_rows.envoys_at_work(federation.db) == ["a", "b"]


async def test_heartbeats_that_arrive_during_a_flush_go_with_the_next(federation: World) -> None:
    names = [f"e{number}" for number in range(12)]
    await federation.register(*names)

    await asyncio.gather(*(federation.process.envoys.heartbeat(Heartbeat(name, True)) for name in names for _ in "12"))

    seen = await presence_rows.instants_of_heartbeats(federation.db)
    assert len(seen) <= 2


@only_postgresql
async def test_heartbeat_that_somebody_else_is_storing_is_passed_by(federation: World) -> None:
    await federation.register("a", "b")
    async with locks.heartbeat(federation.db, "a"):
        outcomes = await asyncio.wait_for(
            beat(federation.db, beat_of("a", running=True), beat_of("b", running=True)), PATIENCE
        )

    assert outcomes == [None, None]
    assert await presence_rows.envoys_at_work(federation.db) == ["b"]


@only_postgresql
async def test_flushes_of_the_same_envoys_in_any_order_do_not_lock_each_other_out(federation: World) -> None:
    names = [f"e{number}" for number in range(20)]
    await federation.register(*names)

    await asyncio.gather(*(beat(federation.db, *map(beat_of, names[number:] + names[:number])) for number in range(10)))

    assert len(await online(federation.db)) == 20


async def test_what_an_envoy_works_on_is_named_only_to_those_who_may_see_it(federation: World) -> None:
    await running(federation)
    uid = (await federation.row("experiment")).uid

    own = await federation.process.federation.envoys(RESEARCHER)
    other = await federation.process.federation.envoys(Caller("stranger"))

    assert {(each.experiment_uid, each.experiment_name) for each in own.items} == {(uid, "experiment")}
    assert {(each.experiment_uid, each.experiment_name) for each in other.items} == {("", "")}


async def test_liveness_leaves_out_who_never_registered(timed: World) -> None:
    await register(timed.db, "a")

    async with timed.db.read() as tx:
        assert (await envoys.liveness(tx, ["a", "stranger"], lease=LEASE)).keys() == {"a"}
        assert await envoys.registered(tx, ["a", "stranger"]) == {"a"}


async def test_period_shorter_than_the_lease_does_not_make_an_envoy_absent_sooner(
    migrated_url: str, clock: ManualClock
) -> None:
    async with world(migrated_url, clock=clock, envoy_health_check_period=timedelta(seconds=1)) as federation:
        await federation.register("a")
        await live(federation, clock, LEASE.total_seconds() - 1)
        assert await online(federation.db) == ["a"]

        await live(federation, clock, 2)

        assert await online(federation.db) == []
