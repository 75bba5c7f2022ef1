"""Envoys are entered once however often they register, and their heartbeats say who is there."""

import asyncio
from datetime import timedelta

import pytest

from director.domain.envoys import Shard
from director.domain.messages import EventKind, Heartbeat
from director.effects import ManualClock
from director.errors import EnvoyNotFound
from director.services.runtime import Caller
from director.store import envoys, events
from director.store.engine.database import Database, Hint
from director.store.envoys import Envoy, Heard
from director.store.tables import FEDERATION_STREAM
from tests.store.words import LEASE, PATIENCE, holding, live, one, only_postgresql, rows, running
from tests.world import RESEARCHER, World, world

PERIOD = timedelta(seconds=20)
LIMIT = 40.0


async def register(db: Database, envoy: str, *, samples: int = 10, description: str = "") -> None:
    async with db.write("register") as tx:
        await envoys.register(tx, Shard(envoy, description, samples, (8, 8), (10,)), period=PERIOD)


async def beat(db: Database, *names: str, running: bool = False, devices: tuple[dict[str, object], ...] = ()) -> Heard:
    async with db.write("beat") as tx:
        beats = [Heartbeat(name, running, devices) for name in names]
        return await envoys.beat(tx, beats, period=PERIOD, lease=LEASE)


async def listed(db: Database) -> list[Envoy]:
    async with db.read() as tx:
        return await envoys.listed(tx, lease=LEASE)


async def online(db: Database) -> list[str]:
    return [envoy.shard.envoy for envoy in await listed(db) if envoy.is_online]


async def test_shard_is_read_as_it_was_registered(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "ä", samples=3, description="digits ✓")

    [found] = await listed(timed.db)

    assert found == Envoy(
        shard=Shard("ä", "digits ✓", 3, (8, 8), (10,)),
        registered_at=clock.now(),
        seen_at=clock.now(),
        period=PERIOD,
        is_online=True,
        is_experiment_running=False,
        devices=[],
        experiment_id=None,
        experiment_name=None,
        absence_seconds=0.0,
    )


async def test_envoy_that_registers_again_is_the_same_envoy_with_a_new_shard(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a", samples=3)
    first = clock.now()
    await beat(timed.db, "a", running=True, devices=({"memory": 1},))
    clock.advance(timedelta(seconds=5))

    await register(timed.db, "a", samples=4, description="more")

    [found] = await listed(timed.db)
    assert (found.shard.samples, found.shard.description) == (4, "more")
    assert (found.registered_at, found.seen_at) == (first, clock.now())
    assert (found.is_experiment_running, found.devices) == (True, [{"memory": 1}])
    assert await one(timed.db, "SELECT count(*) FROM envoy_sessions") == 1


async def test_registration_is_recorded_and_wakes_admission(timed: World) -> None:
    hints: list[Hint] = []
    timed.db.on_commit = hints.extend
    await register(timed.db, "a", samples=3)
    await register(timed.db, "a", samples=4)

    async with timed.db.read() as tx:
        found = await events.after(tx, FEDERATION_STREAM, 1, limit=10)
    assert [(each.kind, each.actor, each.details) for each in found] == [
        (EventKind.SHARD_REGISTERED, "a", {"samples": 3}),
        (EventKind.ENVOY_ONLINE, "a", {}),
        (EventKind.SHARD_REGISTERED, "a", {"samples": 4}),
    ]
    assert set(hints) == {("admission", 0), ("envoy", "a")}


async def test_envoy_that_registers_many_times_at_once_is_one_envoy(timed: World) -> None:
    await asyncio.gather(*(register(timed.db, "a", samples=number) for number in range(8)))

    assert len(await listed(timed.db)) == 1
    assert await one(timed.db, "SELECT count(*) FROM envoy_sessions") == 1


async def test_envoy_is_online_until_it_was_silent_for_its_limit(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await live(timed, clock, LIMIT - 0.5)
    assert await online(timed.db) == ["a"]

    await live(timed, clock, 1)

    [found] = await listed(timed.db)
    assert not found.is_online
    assert found.absence_seconds == pytest.approx(LIMIT + 0.5)


async def test_heartbeat_keeps_an_envoy_online_and_brings_it_back(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await live(timed, clock, LIMIT - 1)
    hints: list[Hint] = []
    timed.db.on_commit = hints.extend
    await beat(timed.db, "a")
    assert hints == []
    await live(timed, clock, LIMIT - 1)
    assert await online(timed.db) == ["a"]
    await live(timed, clock, 2)
    assert await online(timed.db) == []

    await beat(timed.db, "a")

    assert await online(timed.db) == ["a"]
    assert hints == [("admission", 0), ("envoy", "a")]


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

    heard = await beat(timed.db, "c", "a", "stranger", running=True, devices=({"memory": 2},))

    assert heard.known == {"a", "c"}
    found = {each.shard.envoy: each for each in await listed(timed.db)}
    assert {name: each.seen_at == clock.now() for name, each in found.items()} == {"a": True, "b": False, "c": True}
    assert found["a"].is_experiment_running
    assert found["a"].devices == [{"memory": 2}]
    assert not found["b"].is_experiment_running


async def test_heartbeat_is_answered_with_what_the_envoy_should_be_working_on(federation: World) -> None:
    experiment_id = await running(federation)
    assert (await beat(federation.db, "a")).engagements == {}
    given = await federation.wait("a")

    heard = await beat(federation.db, "a", "b")

    assert heard.engagements == {"a": given}
    assert given.experiment_id == experiment_id


async def test_unknown_envoy_is_told_so_and_the_others_are_stored(federation: World) -> None:
    await federation.register("a", "b")

    answers = await asyncio.gather(
        *(federation.process.envoys.heartbeat(Heartbeat(name, True)) for name in ("a", "stranger", "b")),
        return_exceptions=True,
    )

    assert [type(answer) for answer in answers] == [type(None), EnvoyNotFound, type(None)]
    assert await rows(federation.db, "SELECT envoy FROM heartbeats WHERE is_experiment_running") == ["a", "b"]


async def test_heartbeats_that_arrive_during_a_flush_go_with_the_next(federation: World) -> None:
    names = [f"e{number}" for number in range(12)]
    await federation.register(*names)

    await asyncio.gather(*(federation.process.envoys.heartbeat(Heartbeat(name, True)) for name in names for _ in "12"))

    seen = await rows(federation.db, "SELECT DISTINCT seen_at FROM heartbeats")
    assert len(seen) <= 2


@only_postgresql
async def test_heartbeat_that_somebody_else_is_storing_is_passed_by(federation: World) -> None:
    await federation.register("a", "b")
    async with holding(federation.db, "SELECT 1 FROM heartbeats WHERE envoy = 'a' FOR NO KEY UPDATE"):
        heard = await asyncio.wait_for(beat(federation.db, "a", "b", running=True), PATIENCE)

    assert heard.known == {"a", "b"}
    assert await rows(federation.db, "SELECT envoy FROM heartbeats WHERE is_experiment_running") == ["b"]


@only_postgresql
async def test_flushes_of_the_same_envoys_in_any_order_do_not_lock_each_other_out(federation: World) -> None:
    names = [f"e{number}" for number in range(20)]
    await federation.register(*names)

    await asyncio.gather(*(beat(federation.db, *names[number:], *names[:number]) for number in range(10)))

    assert len(await online(federation.db)) == 20


async def test_what_an_envoy_works_on_is_named_only_to_those_who_may_see_it(federation: World) -> None:
    experiment_id = await running(federation)
    stranger = Caller("stranger")

    own = await federation.process.envoys.listed(RESEARCHER)
    other = await federation.process.envoys.listed(stranger)

    assert {(each.experiment_id, each.experiment_name) for each in own} == {(experiment_id, "experiment")}
    assert {(each.experiment_id, each.experiment_name) for each in other} == {(None, None)}


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
