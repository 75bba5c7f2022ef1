"""Only the owner writes, and only until somebody else was given the experiment."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from director.domain.types import DirectorId, ExperimentId, ExperimentState
from director.errors import LeaseLost
from director.services import endings
from director.store import experiments, leases
from director.store.engine.database import Database
from director.store.leases import Fence
from tests.store.words import claim, die, only_postgresql, owned, waits
from tests.tables import changes, experiment_rows, round_rows
from tests.world import World

RUNNING = (ExperimentState.IN_PROGRESS,)


async def hold(db: Database, fence: Fence, states: tuple[ExperimentState, ...] = RUNNING) -> None:
    async with db.write("hold") as tx:
        await leases.hold(tx, fence, states)


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
async def test_fence_of_somebody_else_is_refused(db: Database, unowned: ExperimentId, stale: dict[str, Any]) -> None:
    [fence], _ = await claim(db, "one")
    await hold(db, fence)

    with pytest.raises(LeaseLost):
        await hold(db, replace(fence, **stale))


async def test_fence_is_refused_in_another_state(db: Database, unowned: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")

    with pytest.raises(LeaseLost):
        await hold(db, fence, (ExperimentState.PENDING,))

    await hold(db, fence, (ExperimentState.PENDING, ExperimentState.IN_PROGRESS))


async def test_owner_whose_experiment_was_taken_over_is_refused(db: Database, unowned: ExperimentId) -> None:
    [old], _ = await claim(db, "one")
    assert await die(db, "one") == [unowned]
    with pytest.raises(LeaseLost):
        await hold(db, old)

    [new], _ = await claim(db, "two")

    assert new == Fence(unowned, DirectorId("two"), 2)
    await hold(db, new)
    with pytest.raises(LeaseLost):
        await hold(db, old)
    async with db.write("release") as tx:
        assert not await leases.release(tx, old)
    assert await experiment_rows.owners(db) == [(unowned, "two", 2)]


@pytest.mark.parametrize(
    "state",
    [ExperimentState.CANCELLED, ExperimentState.FAILED, ExperimentState.FINISHED],
    ids=lambda state: state.value,
)
async def test_ended_experiment_has_no_owner(db: Database, unowned: ExperimentId, state: ExperimentState) -> None:
    [fence], _ = await claim(db, "one")

    async with db.write("end") as tx:
        await experiments.lock(tx, unowned)
        await endings.end(tx, unowned, state)

    assert await experiment_rows.owners(db) == [(unowned, None, 2)]
    with pytest.raises(LeaseLost):
        await hold(db, fence, tuple(ExperimentState))


async def test_loop_of_a_director_that_lost_the_experiment_writes_nothing(federation: World) -> None:
    fence = await owned(federation)
    await changes.raise_fences(federation.db)

    with pytest.raises(LeaseLost):
        await federation.steps(fence).next()
    with pytest.raises(LeaseLost):
        await federation.steps(fence)._open()
    with pytest.raises(LeaseLost):
        await federation.steps(fence).give_up("it does not work here")

    assert await round_rows.numbers(federation.db) == []
    assert await experiment_rows.outcomes(federation.db) == [("in_progress", None)]


@only_postgresql
async def test_holder_of_the_fence_keeps_everybody_else_waiting(db: Database, unowned: ExperimentId) -> None:
    [fence], _ = await claim(db, "one")

    async def lock() -> None:
        async with db.write("lock") as tx:
            await experiments.lock(tx, unowned)

    async with db.write("owner") as tx:
        await leases.hold(tx, fence, RUNNING)
        others = [asyncio.create_task(lock()), asyncio.create_task(hold(db, fence))]
        assert await waits(others[0])
        assert not others[1].done()
    await asyncio.gather(*others)


@only_postgresql
async def test_owner_waits_for_the_holder_of_the_row_and_then_sees_what_it_did(
    db: Database, unowned: ExperimentId
) -> None:
    [fence], _ = await claim(db, "one")
    async with db.write("cancel") as tx:
        await experiments.lock(tx, unowned)
        owner = asyncio.create_task(hold(db, fence))
        assert await waits(owner)
        await endings.end(tx, unowned, ExperimentState.CANCELLED)

    with pytest.raises(LeaseLost):
        await owner
