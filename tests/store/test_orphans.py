"""What a dead director owned is free again, and an experiment that kills its directors waits."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from director.domain.types import DirectorId, ExperimentId
from director.effects import ManualClock
from director.store import experiments, leases
from director.store.engine.database import Database
from director.store.engine.topics import Topic
from director.store.leases import Fence
from tests.store.words import PATIENCE, claim, die, enter, only_postgresql, owned
from tests.tables import changes, experiment_rows, locks, presence_rows, round_rows
from tests.world import World, world

SECOND = timedelta(seconds=1)


async def test_only_the_dead_lose_what_they_owned(db: Database, unowned: ExperimentId) -> None:
    other = await changes.clone(db, unowned, "other", rank=float("inf"))
    await claim(db, "one", limit=1)
    await claim(db, "two")
    topics: list[Topic] = []
    db.on_commit = topics.extend

    assert await die(db, "one") == [unowned]

    assert await experiment_rows.owners(db) == [(unowned, None, 1), (other, "two", 1)]
    assert Topic.claim() in topics
    assert await die(db) == []


async def crash(db: Database, experiment_id: ExperimentId, director: str) -> tuple[int, timedelta]:
    """Have a director claim the experiment and die of it; return the crashes counted, and the pause that follows."""
    await changes.give_experiment_to(db, experiment_id, director)
    await changes.raise_fence(db, experiment_id)
    await die(db, director)
    async with db.read() as tx:
        found = await experiments.get(tx, experiment_id)
        return found.crashes, max(found.claimable_from - await tx.now(), timedelta(0))


async def test_death_while_a_round_collects_is_nobodys_fault(timed: World) -> None:
    fence = await owned(timed)
    await timed.drive(fence)
    await enter(timed.db, "one")
    assert await round_rows.states(timed.db) == ["collecting"]

    assert await crash(timed.db, fence.experiment_id, "one") == (0, timedelta(0))


async def aggregating(federation: World) -> ExperimentId:
    """Bring an experiment to where its first round is being aggregated."""
    fence = await owned(federation, envoys=("a",))
    await federation.drive(fence)
    await federation.finish_round({"a": await federation.wait("a")})
    assert await federation.steps(fence).next() == 0.0
    assert await round_rows.states(federation.db) == ["aggregating"]
    return fence.experiment_id


async def test_each_death_while_aggregating_counts_and_from_the_third_on_the_experiment_waits_longer_and_longer(
    timed: World,
) -> None:
    experiment_id = await aggregating(timed)
    directors = [f"d{number}" for number in range(6)]
    await enter(timed.db, *directors)

    crashes = [await crash(timed.db, experiment_id, director) for director in directors]

    assert [number for number, _ in crashes] == [1, 2, 3, 4, 5, 6]
    assert [pause.total_seconds() for _, pause in crashes] == [0, 0, 10, 20, 40, 80]
    assert leases.pause_after(50) == leases.pause_after(1000) == timedelta(hours=1)


async def test_experiment_that_keeps_crashing_is_not_claimed_before_its_pause_is_over(
    timed: World, clock: ManualClock
) -> None:
    experiment_id = await aggregating(timed)
    await changes.count_crashes(timed.db, 2)
    await enter(timed.db, "one", "two")
    await crash(timed.db, experiment_id, "one")
    clock.advance(9 * SECOND)
    assert await claim(timed.db, "two") == ([], False)

    clock.advance(SECOND)

    assert [fence.experiment_id for fence in (await claim(timed.db, "two"))[0]] == [experiment_id]


async def test_pause_does_not_outlast_a_clock_that_went_back(timed: World, clock: ManualClock) -> None:
    experiment_id = await aggregating(timed)
    await changes.count_crashes(timed.db, 2)
    await enter(timed.db, "one", "two")
    await crash(timed.db, experiment_id, "one")

    clock.advance(-7200 * SECOND)

    assert [fence.experiment_id for fence in (await claim(timed.db, "two"))[0]] == [experiment_id]


async def test_crashes_are_forgotten_once_a_round_closes(timed: World) -> None:
    experiment_id = await aggregating(timed)
    await enter(timed.db, "one")
    await crash(timed.db, experiment_id, "one")
    [fence] = await timed.claim()

    await timed.drive(fence)

    assert await experiment_rows.crashes(timed.db) == [0]
    assert await round_rows.states(timed.db) == ["closed", "collecting"]


async def test_crashes_are_forgotten_once_a_round_freezes(timed: World) -> None:
    fence = await owned(timed, envoys=("a",))
    await timed.drive(fence)
    await timed.finish_round({"a": await timed.wait("a")})
    await changes.count_crashes(timed.db, 2)

    await timed.steps(fence).next()

    assert await experiment_rows.crashes(timed.db) == [0]


async def test_death_during_a_review_counts(migrated_url: str) -> None:
    async with world(migrated_url, review=lambda _name, _plan: True) as federation:
        await federation.register("a")
        view = await federation.submit(envoys=("a",))
        await enter(federation.db, "one")

        assert (await crash(federation.db, view.id, "one"))[0] == 1


@only_postgresql
async def test_freeing_passes_by_what_is_locked(db: Database, unowned: ExperimentId) -> None:
    other = await changes.clone(db, unowned, "other")
    await claim(db, "one")
    async with locks.experiment(db, unowned):
        assert await asyncio.wait_for(die(db, "one"), PATIENCE) == [other]

    assert await die(db) == [unowned]


@only_postgresql
async def test_what_is_locked_when_its_owner_is_reaped_is_freed_at_a_later_look(
    federation: World, unowned: ExperimentId
) -> None:
    db, presence = federation.db, federation.process.presence
    await claim(db, "one")
    await changes.expire_lease(db, "one")
    async with locks.experiment(db, unowned):
        await asyncio.wait_for(presence.expire_leases(), PATIENCE)
    assert await presence_rows.directors_dead(db) == ["one"]
    assert await experiment_rows.owners(db) == [(unowned, "one", 1)]

    await presence.expire_leases()

    assert await experiment_rows.owners(db) == [(unowned, None, 1)]


async def test_released_experiment_can_be_claimed_at_once(db: Database, unowned: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")
    topics: list[Topic] = []
    db.on_commit = topics.extend

    async with db.write("release") as tx:
        assert not await leases.release(tx, replace(fence, number=0))
        assert not await leases.release(tx, replace(fence, director_id=DirectorId("two")))
        assert await leases.release(tx, fence)
    async with db.write("release") as tx:
        assert not await leases.release(tx, fence)

    assert topics.count(Topic.claim()) == 1
    assert (await claim(db, "two"))[0] == [Fence(unowned, DirectorId("two"), 2)]
