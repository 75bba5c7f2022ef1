"""Whoever claims an experiment owns it alone; nobody claims what others own, what waits, or what it cannot run."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from director.domain.history import EventKind
from director.domain.types import DirectorId, ExperimentId, ExperimentState
from director.effects import ManualClock
from director.services import endings
from director.store import experiments, leases
from director.store.engine.database import Database
from director.store.leases import Fence
from tests.store.words import PATIENCE, claim, enter, explained, only_postgresql, recorded_statements, running
from tests.tables import changes, crowds, event_rows, experiment_rows, locks
from tests.world import World

SECOND = timedelta(seconds=1)


async def test_claim_gives_the_experiment_and_a_higher_fence(db: Database, unowned: ExperimentId) -> None:
    fences, missed = await claim(db, "one")

    assert fences == [Fence(unowned, DirectorId("one"), 1)]
    assert not missed
    assert await experiment_rows.owners(db) == [(unowned, "one", 1)]
    async with db.read() as tx:
        assert await leases.owned(tx, DirectorId("one")) == fences
        assert await leases.owned(tx, DirectorId("two")) == []
    *_, last = await event_rows.of(db, unowned)
    assert (last.kind, last.details) == (EventKind.EXPERIMENT_CLAIMED, {"director": "one", "fence": 1})


async def test_claimed_experiment_is_not_claimed_again(db: Database, unowned: ExperimentId) -> None:
    await claim(db, "one")

    assert await claim(db, "two") == ([], False)

    assert await experiment_rows.owners(db) == [(unowned, "one", 1)]


async def test_each_experiment_is_claimed_by_one_however_many_claim_at_once(
    db: Database, unowned: ExperimentId
) -> None:
    everything = [unowned] + [await changes.clone(db, unowned, f"clone {number}") for number in range(23)]
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
    assert await experiment_rows.owners(db) == [(each, *held[each]) for each in everything]
    assert {number for _, number in held.values()} == {1}


async def test_experiments_are_claimed_in_rank_order_and_no_more_than_asked_for(
    db: Database, unowned: ExperimentId
) -> None:
    await changes.rank(db, 3)
    ranked = {rank: await changes.clone(db, unowned, f"rank {rank}", rank=float(rank)) for rank in (5, 1, 2)}
    twin = await changes.clone(db, unowned, "rank 3 again", rank=3.0)

    order = []
    for limit in (2, 1, 1, 7):
        fences, _ = await claim(db, "one", limit=limit)
        order.append(sorted(fence.experiment_id for fence in fences))

    assert order == [sorted([ranked[1], ranked[2]]), [unowned], [twin], [ranked[5]]]


@pytest.mark.parametrize("rules", [{"weighted_average": 2}, {"median": 1}])
async def test_experiment_with_a_rule_that_the_director_lacks_is_left_to_others(
    db: Database, unowned: ExperimentId, rules: dict[str, int]
) -> None:
    assert await claim(db, "one", rules=rules) == ([], False)

    fences, _ = await claim(db, "two", rules=rules | {"weighted_average": 1})
    assert [fence.experiment_id for fence in fences] == [unowned]


@pytest.mark.parametrize(
    "state",
    [
        {"state": ExperimentState.PENDING},
        {"state": ExperimentState.FINISHED},
        {"state": ExperimentState.CANCELLED, "review_due": True},
    ],
    ids=["pending", "finished", "cancelled"],
)
async def test_experiment_that_does_not_run_is_not_claimed(
    federation: World, unowned: ExperimentId, state: dict[str, Any]
) -> None:
    clone_id = await changes.clone(federation.db, unowned, "other", **state)

    fences, _ = await claim(federation.db, "one", reviews=True)

    assert clone_id not in [fence.experiment_id for fence in fences]
    assert len(fences) == 1


async def test_review_is_claimed_only_by_a_director_that_reviews(db: Database, unowned: ExperimentId) -> None:
    due = await changes.clone(db, unowned, "due", state=ExperimentState.PENDING, review_due=True)
    without, _ = await claim(db, "one")
    assert [fence.experiment_id for fence in without] == [unowned]

    fences, _ = await claim(db, "two", reviews=True)

    assert fences == [Fence(due, DirectorId("two"), 1)]


async def test_experiment_is_left_alone_until_it_may_be_claimed(timed: World, clock: ManualClock) -> None:
    unowned = await running(timed)
    await enter(timed.db, "one")
    async with timed.db.write("test") as tx:
        later = await tx.now() + SECOND
    other = await changes.clone(timed.db, unowned, "later", claimable_at=later)
    assert [fence.experiment_id for fence in (await claim(timed.db, "one"))[0]] == [unowned]

    clock.advance(SECOND)

    assert [fence.experiment_id for fence in (await claim(timed.db, "one"))[0]] == [other]


async def test_looking_for_something_to_claim_claims_nothing(db: Database, unowned: ExperimentId) -> None:
    async with db.read() as tx:
        assert await leases.anything_to_claim(tx, rules={"weighted_average": 1}, reviews=False)
        assert not await leases.anything_to_claim(tx, rules={"median": 1}, reviews=True)

    assert await experiment_rows.owners(db) == [(unowned, None, 0)]


@only_postgresql
async def test_claim_passes_by_what_is_locked_and_says_so(db: Database, unowned: ExperimentId) -> None:
    second = await changes.clone(db, unowned, "second")
    async with locks.experiment(db, unowned):
        fences, missed = await asyncio.wait_for(claim(db, "one", limit=1), PATIENCE)
        assert [fence.experiment_id for fence in fences] == [second]
        assert not missed

        assert await asyncio.wait_for(claim(db, "one"), PATIENCE) == ([], True)

    assert [fence.experiment_id for fence in (await claim(db, "one"))[0]] == [unowned]


@only_postgresql
async def test_experiment_that_ends_in_that_moment_is_not_claimed(db: Database, unowned: ExperimentId) -> None:
    async with db.write("cancel") as ending:
        await experiments.lock(ending, unowned)
        await endings.end(ending, unowned, ExperimentState.CANCELLED)
        assert await claim(db, "one") == ([], True)

    assert await claim(db, "one") == ([], False)


async def test_claim_looks_only_at_what_can_be_claimed(db: Database, unowned: ExperimentId) -> None:
    with recorded_statements() as statements:
        await claim(db, "one", reviews=True)
    [(statement, parameters)] = [each for each in statements if experiment_rows.CLAIM in each[0]]
    await crowds.crowd(db, unowned)

    assert experiment_rows.CLAIMABLE_INDEX in await explained(db, statement, parameters)
