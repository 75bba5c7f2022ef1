"""An experiment has one owner, who may write as long as nobody else was given it."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from director.domain.messages import EventKind
from director.domain.types import DirectorId, ExperimentId, ExperimentState
from director.effects import ManualClock
from director.errors import LeaseLost
from director.services import endings
from director.store import events, experiments, leases
from director.store.database import Database, Hint
from director.store.leases import Fence
from tests.store.words import (
    LEASE,
    change,
    claim,
    clone,
    crowd,
    enter,
    explained,
    holding,
    one,
    only_postgresql,
    owned,
    recorded_statements,
    rows,
    running,
    waits,
)
from tests.world import World, world

RUNNING = (ExperimentState.IN_PROGRESS,)
SECOND = timedelta(seconds=1)
OWNERS = "SELECT id, director_id, fence FROM experiments ORDER BY id"


@pytest.fixture
async def free(federation: World) -> ExperimentId:
    """An experiment that runs and that nobody owns; and directors `one` and `two`, who might."""
    await enter(federation.db, "one", "two")
    return await running(federation)


async def die(db: Database, *directors: str) -> list[ExperimentId]:
    """Have directors die, and free what they owned."""
    for director in directors:
        await change(db, "UPDATE directors SET reaped_at = expires_at WHERE id = :id", id=director)
    async with db.write("free") as tx:
        return await leases.free(tx)


async def reap(db: Database, **how: Any) -> list[str]:
    async with db.write("reap") as tx:
        return [*await leases.reap(tx, lease=LEASE, **how)]


async def hold(db: Database, fence: Fence, states: tuple[ExperimentState, ...] = RUNNING) -> None:
    async with db.write("hold") as tx:
        await leases.hold(tx, fence, states)


# Claiming


async def test_claim_gives_the_experiment_and_a_higher_fence(db: Database, free: ExperimentId) -> None:
    fences, missed = await claim(db, "one")

    assert fences == [Fence(free, DirectorId("one"), 1)]
    assert not missed
    assert await rows(db, OWNERS) == [(free, "one", 1)]
    async with db.read() as tx:
        assert await leases.owned(tx, DirectorId("one")) == fences
        assert await leases.owned(tx, DirectorId("two")) == []
        *_, last = await events.after(tx, free, 0, limit=100)
    assert (last.kind, last.details) == (EventKind.EXPERIMENT_CLAIMED, {"director": "one", "fence": 1})


async def test_claimed_experiment_is_not_claimed_again(db: Database, free: ExperimentId) -> None:
    await claim(db, "one")

    assert await claim(db, "two") == ([], False)

    assert await rows(db, OWNERS) == [(free, "one", 1)]


async def test_experiments_are_claimed_by_one_each_however_many_claim_at_once(db: Database, free: ExperimentId) -> None:
    everything = [free] + [await clone(db, free, f"clone {number}") for number in range(23)]
    await enter(db, *(f"d{number}" for number in range(6)))

    async def greedy(director: str) -> list[Fence]:
        claimed: list[Fence] = []
        while True:
            fences, missed = await claim(db, director, limit=2)
            claimed += fences
            if not fences and not missed:
                return claimed

    claimed = await asyncio.gather(*(greedy(f"d{number}") for number in range(6)))

    ids = [fence.experiment_id for fences in claimed for fence in fences]
    assert sorted(ids) == sorted(everything)
    held = {fence.experiment_id: (fence.director_id, fence.number) for fences in claimed for fence in fences}
    assert await rows(db, OWNERS) == [(each, *held[each]) for each in everything]
    assert {number for _, number in held.values()} == {1}


async def test_experiments_are_claimed_in_rank_order_and_no_more_than_asked_for(
    db: Database, free: ExperimentId
) -> None:
    await change(db, "UPDATE experiments SET rank = 3")
    ranked = {rank: await clone(db, free, f"rank {rank}", rank=float(rank)) for rank in (5, 1, 2)}
    twin = await clone(db, free, "rank 3 again", rank=3.0)

    order = []
    for limit in (2, 1, 1, 7):
        fences, _ = await claim(db, "one", limit=limit)
        order.append(sorted(fence.experiment_id for fence in fences))

    assert order == [sorted([ranked[1], ranked[2]]), [free], [twin], [ranked[5]]]


@pytest.mark.parametrize("rules", [{"weighted_average": 2}, {"median": 1}])
async def test_experiment_with_a_rule_that_the_director_lacks_is_left_to_others(
    db: Database, free: ExperimentId, rules: dict[str, int]
) -> None:
    assert await claim(db, "one", rules=rules) == ([], False)

    fences, _ = await claim(db, "two", rules=rules | {"weighted_average": 1})
    assert [fence.experiment_id for fence in fences] == [free]


@pytest.mark.parametrize(
    "state",
    [
        {"state": ExperimentState.PENDING, "started_at": None},
        {"state": ExperimentState.FINISHED},
        {"state": ExperimentState.CANCELLED, "review_due": True},
    ],
    ids=["pending", "finished", "cancelled"],
)
async def test_experiment_that_does_not_run_is_not_claimed(
    federation: World, free: ExperimentId, state: dict[str, Any]
) -> None:
    async with federation.db.read() as tx:
        now = await tx.now()
    ended = None if state["state"] is ExperimentState.PENDING else now
    clone_id = await clone(federation.db, free, "other", **state, finished_at=ended)

    fences, _ = await claim(federation.db, "one", reviews=True)

    assert clone_id not in [fence.experiment_id for fence in fences]
    assert len(fences) == 1


async def test_review_is_claimed_only_by_a_director_that_reviews(db: Database, free: ExperimentId) -> None:
    due = await clone(db, free, "due", state=ExperimentState.PENDING, started_at=None, review_due=True)
    without, _ = await claim(db, "one")
    assert [fence.experiment_id for fence in without] == [free]

    fences, _ = await claim(db, "two", reviews=True)

    assert fences == [Fence(due, DirectorId("two"), 1)]


async def test_experiment_is_left_alone_until_it_may_be_claimed(timed: World, clock: ManualClock) -> None:
    free = await running(timed)
    await enter(timed.db, "one")
    async with timed.db.write("test") as tx:
        later = await tx.now() + SECOND
    other = await clone(timed.db, free, "later", claimable_from=later)
    assert [fence.experiment_id for fence in (await claim(timed.db, "one"))[0]] == [free]

    clock.advance(SECOND)

    assert [fence.experiment_id for fence in (await claim(timed.db, "one"))[0]] == [other]


async def test_looking_for_something_to_claim_claims_nothing(db: Database, free: ExperimentId) -> None:
    async with db.read() as tx:
        assert await leases.anything_to_claim(tx, rules={"weighted_average": 1}, reviews=False)
        assert not await leases.anything_to_claim(tx, rules={"median": 1}, reviews=True)

    assert await rows(db, OWNERS) == [(free, None, 0)]


@only_postgresql
async def test_claim_passes_by_what_is_locked_and_says_so(db: Database, free: ExperimentId) -> None:
    second = await clone(db, free, "second")
    async with holding(db, "SELECT 1 FROM experiments WHERE id = :id FOR NO KEY UPDATE", id=free):
        fences, missed = await asyncio.wait_for(claim(db, "one", limit=1), 2)
        assert [fence.experiment_id for fence in fences] == [second]
        assert not missed

        assert await asyncio.wait_for(claim(db, "one"), 2) == ([], True)

    assert [fence.experiment_id for fence in (await claim(db, "one"))[0]] == [free]


@only_postgresql
async def test_experiment_that_ends_in_that_moment_is_not_claimed(db: Database, free: ExperimentId) -> None:
    async with db.write("cancel") as ending:
        await experiments.lock(ending, free)
        await endings.end(ending, free, ExperimentState.CANCELLED)
        assert await claim(db, "one") == ([], True)

    assert await claim(db, "one") == ([], False)


async def test_claim_looks_only_at_what_can_be_claimed(db: Database, free: ExperimentId) -> None:
    with recorded_statements() as statements:
        await claim(db, "one", reviews=True)
    [(statement, parameters)] = [each for each in statements if "SET director_id" in each[0]]
    await crowd(db, free)

    assert "ix_experiments_claimable" in await explained(db, statement, parameters)


# The fence


@pytest.mark.parametrize(
    "stale",
    [
        {"director_id": DirectorId("two")},
        {"number": 0},
        {"number": 2},
        {"experiment_id": ExperimentId(99)},
    ],
    ids=["another owner", "a lower fence", "a higher fence", "no such experiment"],
)
async def test_fence_of_somebody_else_is_refused(db: Database, free: ExperimentId, stale: dict[str, Any]) -> None:
    [fence], _ = await claim(db, "one")
    await hold(db, fence)

    with pytest.raises(LeaseLost):
        await hold(db, replace(fence, **stale))


async def test_fence_is_refused_in_another_state(db: Database, free: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")

    with pytest.raises(LeaseLost):
        await hold(db, fence, (ExperimentState.PENDING,))

    await hold(db, fence, (ExperimentState.PENDING, ExperimentState.IN_PROGRESS))


async def test_owner_whose_experiment_was_taken_over_is_refused(db: Database, free: ExperimentId) -> None:
    [old], _ = await claim(db, "one")
    assert await die(db, "one") == [free]
    with pytest.raises(LeaseLost):
        await hold(db, old)

    [new], _ = await claim(db, "two")

    assert new == Fence(free, DirectorId("two"), 2)
    await hold(db, new)
    with pytest.raises(LeaseLost):
        await hold(db, old)
    async with db.write("release") as tx:
        assert not await leases.release(tx, old)
    assert await rows(db, OWNERS) == [(free, "two", 2)]


@pytest.mark.parametrize(
    "state",
    [ExperimentState.CANCELLED, ExperimentState.FAILED, ExperimentState.FINISHED],
    ids=lambda state: state.value,
)
async def test_ended_experiment_has_no_owner(db: Database, free: ExperimentId, state: ExperimentState) -> None:
    [fence], _ = await claim(db, "one")

    async with db.write("end") as tx:
        await experiments.lock(tx, free)
        await endings.end(tx, free, state)

    assert await rows(db, OWNERS) == [(free, None, 2)]
    with pytest.raises(LeaseLost):
        await hold(db, fence, tuple(ExperimentState))


async def test_loop_of_a_director_that_lost_the_experiment_writes_nothing(federation: World) -> None:
    fence = await owned(federation)
    await change(federation.db, "UPDATE experiments SET fence = fence + 1")

    with pytest.raises(LeaseLost):
        await federation.steps(fence).next()
    with pytest.raises(LeaseLost):
        await federation.steps(fence)._open()

    assert await rows(federation.db, "SELECT number FROM rounds") == []


@only_postgresql
async def test_holder_of_the_fence_keeps_everybody_else_waiting(db: Database, free: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")

    async def lock() -> None:
        async with db.write("lock") as tx:
            await experiments.lock(tx, free)

    async with db.write("owner") as tx:
        await leases.hold(tx, fence, RUNNING)
        others = [asyncio.create_task(lock()), asyncio.create_task(hold(db, fence))]
        assert await waits(others[0])
        assert not others[1].done()
    await asyncio.gather(*others)


@only_postgresql
async def test_owner_waits_for_whoever_holds_the_row_and_then_sees_what_they_did(
    db: Database, free: ExperimentId
) -> None:
    [fence], _ = await claim(db, "one")
    async with db.write("cancel") as tx:
        await experiments.lock(tx, free)
        owner = asyncio.create_task(hold(db, fence))
        assert await waits(owner)
        await endings.end(tx, free, ExperimentState.CANCELLED)

    with pytest.raises(LeaseLost):
        await owner


# Leases


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


async def test_lease_that_expired_is_never_renewed_even_before_anybody_reaped_it(
    timed_db: Database, clock: ManualClock
) -> None:
    await enter(timed_db, "one")
    clock.advance(LEASE)
    assert not await renew(timed_db, "one")

    clock.advance(-SECOND)

    assert await renew(timed_db, "one"), "by the only clock there is it has not expired"


async def test_those_whose_lease_expired_are_reaped_once(timed_db: Database, clock: ManualClock) -> None:
    await enter(timed_db, "early")
    clock.advance(SECOND)
    await enter(timed_db, "late")
    clock.advance(LEASE - SECOND)

    assert "early" in await reap(timed_db)

    assert await reap(timed_db) == []
    assert await rows(timed_db, "SELECT id FROM directors WHERE reaped_at IS NULL") == ["late"]
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
    assert await rows(timed_db, "SELECT id FROM directors WHERE reaped_at IS NULL") == ["me"]


async def test_retired_director_is_dead(timed_db: Database, clock: ManualClock) -> None:
    await enter(timed_db, "one")

    async with timed_db.write("retire") as tx:
        await leases.retire(tx, DirectorId("one"))

    assert not await renew(timed_db, "one")
    assert await reap(timed_db, survivor=DirectorId("me")) == await reap(timed_db) + [
        await one(timed_db, "SELECT id FROM directors WHERE id <> 'one'")
    ]


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
    async with holding(db, "SELECT 1 FROM directors WHERE id = 'stuck' FOR NO KEY UPDATE"):
        assert await asyncio.wait_for(reap(db), 2) == ["other"]

    assert await reap(db) == ["stuck"]


# What the dead owned


async def test_only_the_dead_lose_what_they_owned(db: Database, free: ExperimentId) -> None:
    other = await clone(db, free, "other", rank=float("inf"))
    await claim(db, "one", limit=1)
    await claim(db, "two")
    hints: list[Hint] = []
    db.on_commit = hints.extend

    assert await die(db, "one") == [free]

    assert await rows(db, OWNERS) == [(free, None, 1), (other, "two", 1)]
    assert ("claim", 0) in hints
    assert await die(db) == []


async def crash(db: Database, experiment_id: ExperimentId, director: str) -> tuple[int, timedelta]:
    """Have a director claim the experiment and die of it; return the crashes counted, and the pause that follows."""
    await change(
        db,
        "UPDATE experiments SET director_id = :director, fence = fence + 1 WHERE id = :id",
        director=director,
        id=experiment_id,
    )
    await die(db, director)
    async with db.read() as tx:
        found = await experiments.get(tx, experiment_id)
        return found.crashes, max(found.claimable_from - await tx.now(), timedelta(0))


async def test_death_while_a_round_collects_is_nobodys_fault(timed: World) -> None:
    fence = await owned(timed)
    await timed.drive(fence)
    await enter(timed.db, "one")
    assert await rows(timed.db, "SELECT state FROM rounds") == ["collecting"]

    assert await crash(timed.db, fence.experiment_id, "one") == (0, timedelta(0))


async def aggregating(federation: World) -> ExperimentId:
    """Bring an experiment to where its first round is being aggregated."""
    fence = await owned(federation, envoys=("a",))
    await federation.drive(fence)
    await federation.finish_round({"a": await federation.wait("a")})
    assert await federation.steps(fence).next() == 0.0
    assert await rows(federation.db, "SELECT state FROM rounds") == ["aggregating"]
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
    await change(timed.db, "UPDATE experiments SET crashes = 2")
    await enter(timed.db, "one", "two")
    await crash(timed.db, experiment_id, "one")
    clock.advance(9 * SECOND)
    assert await claim(timed.db, "two") == ([], False)

    clock.advance(SECOND)

    assert [fence.experiment_id for fence in (await claim(timed.db, "two"))[0]] == [experiment_id]


async def test_crashes_are_forgotten_once_a_round_closes(timed: World) -> None:
    experiment_id = await aggregating(timed)
    await enter(timed.db, "one")
    await crash(timed.db, experiment_id, "one")
    [fence] = await timed.claim()

    await timed.drive(fence)

    assert await one(timed.db, "SELECT crashes FROM experiments") == 0
    assert await rows(timed.db, "SELECT state FROM rounds ORDER BY number") == ["closed", "collecting"]


async def test_crashes_are_forgotten_once_a_round_freezes(timed: World) -> None:
    fence = await owned(timed, envoys=("a",))
    await timed.drive(fence)
    await timed.finish_round({"a": await timed.wait("a")})
    await change(timed.db, "UPDATE experiments SET crashes = 2")

    await timed.steps(fence).next()

    assert await one(timed.db, "SELECT crashes FROM experiments") == 0


async def test_death_during_a_review_counts(migrated_url: str) -> None:
    async with world(migrated_url, review=lambda _name, _plan: True) as federation:
        await federation.register("a")
        view = await federation.submit(envoys=("a",))
        await enter(federation.db, "one")

        assert (await crash(federation.db, view.experiment.id, "one"))[0] == 1


@only_postgresql
async def test_freeing_passes_by_what_is_locked(db: Database, free: ExperimentId) -> None:
    other = await clone(db, free, "other")
    await claim(db, "one")
    async with holding(db, "SELECT 1 FROM experiments WHERE id = :id FOR NO KEY UPDATE", id=free):
        assert await asyncio.wait_for(die(db, "one"), 2) == [other]

    assert await die(db) == [free]


async def test_released_experiment_can_be_claimed_at_once(db: Database, free: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")
    hints: list[Hint] = []
    db.on_commit = hints.extend

    async with db.write("release") as tx:
        assert await leases.release(tx, fence)
    async with db.write("release") as tx:
        assert not await leases.release(tx, fence)

    assert hints.count(("claim", 0)) == 1
    assert (await claim(db, "two"))[0] == [Fence(free, DirectorId("two"), 2)]
