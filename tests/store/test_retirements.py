"""A retired envoy is refused everywhere, and nothing but an operator brings it back."""

import asyncio
import math
from datetime import timedelta

import pytest

from director.domain.envoy import Engagement
from director.domain.history import EventKind
from director.effects import ManualClock
from director.errors import EnvoyNotFound, EnvoyRetired, InvalidArgument, StaleSession
from director.store import envoys, experiments, pending, retirements
from director.store.engine.database import Database
from director.store.engine.topics import Topic
from director.store.retirements import Part
from tests.store.presence import PERIOD, beat, beat_of, online, register, restore, retire, shard_of, the_one
from tests.store.words import LEASE, only_postgresql, running, waits
from tests.tables import event_rows, experiment_rows, presence_rows, round_rows
from tests.tables.everything import contents
from tests.world import RESEARCHER, World


async def open_parts(db: Database) -> list[Part]:
    async with db.read() as tx:
        return await retirements.open_parts(tx)


async def test_envoy_that_is_retired_is_offline_at_once_and_its_uptime_ends(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    clock.advance(timedelta(seconds=3))
    topics: list[Topic] = []
    timed.db.on_commit = topics.extend

    assert await retire(timed.db, "a")

    found = await the_one(timed.db, "a")
    assert (found.online, found.retired_at) == (False, clock.now())
    assert await presence_rows.sessions(timed.db) == [("a", "2030-01", 3.0, False)]
    [event] = await event_rows.of_kind(timed.db, EventKind.ENVOY_RETIRED)
    assert (event.actor, event.details) == ("operator", {"envoy": "a"})
    assert set(topics) == {Topic.envoy("a"), Topic.admission(), Topic.federation()}


async def test_envoy_is_retired_once(timed: World, clock: ManualClock) -> None:
    await register(timed.db, "a")
    await retire(timed.db, "a")
    before = await contents(timed.db)
    clock.advance(timedelta(seconds=1))

    assert not await retire(timed.db, "a")

    assert await contents(timed.db) == before


async def test_envoy_that_never_registered_is_neither_retired_nor_restored(timed: World) -> None:
    with pytest.raises(EnvoyNotFound):
        await retire(timed.db, "stranger")
    with pytest.raises(EnvoyNotFound):
        await restore(timed.db, "stranger")


async def test_registering_does_not_bring_a_retired_envoy_back(timed: World) -> None:
    await register(timed.db, "a", session="1", samples=3)
    await retire(timed.db, "a")
    before, retired = await contents(timed.db), await the_one(timed.db, "a")

    with pytest.raises(EnvoyRetired, match="director envoys restore"):
        await register(timed.db, "a", session="2", samples=4)

    assert await contents(timed.db) == before
    assert await the_one(timed.db, "a") == retired


@pytest.mark.parametrize("session", ["1", None])
async def test_heartbeat_of_a_retired_envoy_is_refused_and_the_others_are_stored(
    timed: World, clock: ManualClock, session: str | None
) -> None:
    await register(timed.db, "a")
    await register(timed.db, "b")
    await retire(timed.db, "a")
    before = await the_one(timed.db, "a")
    clock.advance(timedelta(seconds=1))

    refused, stored = await beat(timed.db, beat_of("a", session=session, running=True), beat_of("b"))

    assert (type(refused), stored) == (EnvoyRetired, None)
    assert await the_one(timed.db, "a") == before
    assert (await the_one(timed.db, "b")).last_seen_at == clock.now()


@pytest.mark.parametrize("with_session", [True, False])
async def test_nothing_is_handed_out_to_a_retired_envoy(federation: World, with_session: bool) -> None:
    await running(federation)
    [session] = await federation.register("a")
    await retire(federation.db, "a")

    with pytest.raises(EnvoyRetired):
        await federation.process.envoys.wait_experiment("a", session_id=session.id if with_session else None, seconds=0)

    assert await round_rows.collaborators(federation.db) == [("a", "queued"), ("b", "queued")]
    assert isinstance(await federation.wait("b"), Engagement)


async def test_retired_envoy_takes_part_in_no_new_experiment(federation: World) -> None:
    await federation.register("a", "b")
    await retire(federation.db, "a")

    with pytest.raises(InvalidArgument, match="no envoy is registered as 'a'"):
        await federation.submit()

    assert await experiment_rows.ids(federation.db) == []


async def test_restored_envoy_registers_again_and_is_back(timed: World) -> None:
    await register(timed.db, "a", session="1")
    await retire(timed.db, "a")

    assert await restore(timed.db, "a")
    assert not await restore(timed.db, "a")

    assert await online(timed.db) == []
    assert [type(each) for each in await beat(timed.db, beat_of("a", session="1"))] == [StaleSession]
    await register(timed.db, "a", session="2")
    assert await online(timed.db) == ["a"]
    assert [is_open for *_, is_open in await presence_rows.sessions(timed.db)] == [False, True]
    [event] = await event_rows.of_kind(timed.db, EventKind.ENVOY_RESTORED)
    assert (event.actor, event.details) == ("operator", {"envoy": "a"})


@only_postgresql
async def test_registration_that_races_with_the_retirement_is_refused(timed: World) -> None:
    await register(timed.db, "a", session="1")
    async with timed.db.write("retire") as tx:
        assert await envoys.retire(tx, "a", actor="operator")
        registering = asyncio.create_task(register(timed.db, "a", session="2"))
        assert await waits(registering)

    with pytest.raises(EnvoyRetired):
        await registering
    assert not (await the_one(timed.db, "a")).online
    assert await presence_rows.envoys_with_open_sessions(timed.db) == []


@only_postgresql
async def test_retirement_that_races_with_a_registration_wins(timed: World) -> None:
    await register(timed.db, "a", session="1")
    async with timed.db.write("register") as tx:
        await envoys.register(tx, shard_of("a"), session_id="2", period=PERIOD)
        retiring = asyncio.create_task(retire(timed.db, "a"))
        assert await waits(retiring)

    assert await retiring
    assert not (await the_one(timed.db, "a")).online
    assert await presence_rows.envoys_with_open_sessions(timed.db) == []


async def test_parts_of_retired_envoys_are_open_until_they_are_settled(
    federation: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retirements, "STEP", 1)
    first = await running(federation, "first", envoys=("a", "b"))
    await federation.register("c")
    second = (await federation.submit("second", envoys=("b", "c"))).id
    third = (await federation.submit("third", envoys=("b", "c"))).id
    await federation.process.experiments.cancel("third", RESEARCHER)
    assert await open_parts(federation.db) == []
    await retire(federation.db, "b")
    assert await open_parts(federation.db) == [Part(first, "b")]

    await federation.process.federation.settle_retired()

    assert await open_parts(federation.db) == []
    states = {each: await round_rows.collaborator_states(federation.db, each) for each in (first, second, third)}
    assert states == {first: ["queued", "failed"], second: ["failed", "waiting"], third: ["released", "released"]}
    failed = await event_rows.of_kind(federation.db, EventKind.COLLABORATOR_FAILED)
    assert [(event.stream, event.details["envoy"]) for event in failed] == [(first, "b"), (second, "b")]


async def test_part_of_an_envoy_that_was_restored_meanwhile_is_not_open(federation: World) -> None:
    experiment_id = await running(federation)
    await retire(federation.db, "b")

    async with federation.db.write("release") as tx:
        await experiments.lock(tx, experiment_id)
        assert await retirements.is_open(tx, Part(experiment_id, "b"))
        assert not await retirements.is_open(tx, Part(experiment_id, "a"))
    await restore(federation.db, "b")

    async with federation.db.write("release") as tx:
        await experiments.lock(tx, experiment_id)
        assert not await retirements.is_open(tx, Part(experiment_id, "b"))


async def test_retired_collaborator_of_a_pending_experiment_is_waited_for_by_nobody(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit()
    await retire(federation.db, "b")
    await federation.process.federation.settle_retired()

    async with federation.db.write("admission") as tx:
        [found] = (await pending.read(tx, lease=LEASE)).pending

    assert [(each.envoy, each.online) for each in found.candidates] == [("a", True), ("b", False)]
    assert found.candidates[1].absence == math.inf
