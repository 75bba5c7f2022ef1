"""An experiment's row is its mutex: one holder at a time, who does not stop what only refers to it (PostgreSQL)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from director.domain.types import DirectorId, ExperimentId, ExperimentState
from director.store import experiments, leases, pending, queues
from director.store.engine.database import Transaction
from director.store.leases import Fence
from tests.store.words import LEASE, PATIENCE, RULES, enter, only_postgresql, running, waits
from tests.tables import changes
from tests.world import World

pytestmark = only_postgresql

DIRECTOR = DirectorId("one")
BUSY = (ExperimentState.PENDING, ExperimentState.IN_PROGRESS)


async def lock(tx: Transaction, experiment_id: ExperimentId) -> object:
    return await experiments.lock(tx, experiment_id)


async def hold(tx: Transaction, experiment_id: ExperimentId) -> object:
    await changes.give_to(tx, DIRECTOR)
    await changes.set_fences(tx, 7)
    await leases.hold(tx, Fence(experiment_id, DIRECTOR, 7), BUSY)
    return True


async def claim(tx: Transaction, experiment_id: ExperimentId) -> object:
    fences, _ = await leases.claim(tx, DIRECTOR, rules=RULES, reviews=False, limit=1)
    return fences


async def free(tx: Transaction, experiment_id: ExperimentId) -> object:
    await changes.declare_dead(tx)
    await changes.give_to(tx, DIRECTOR)
    return await leases.free(tx)


async def hand_out(tx: Transaction, experiment_id: ExperimentId) -> object:
    given, _ = await queues.hand_out(tx, ["a"])
    return given


async def admit(tx: Transaction, experiment_id: ExperimentId) -> object:
    await changes.make_pending(tx)
    return (await pending.read(tx, lease=LEASE)).locked


@pytest.mark.parametrize("take", [lock, hold, claim, free, hand_out, admit])
async def test_lock_of_an_experiment_keeps_others_waiting_but_not_rows_that_refer_to_it(
    federation: World, take: Callable[[Transaction, ExperimentId], Awaitable[object]]
) -> None:
    experiment_id = await running(federation)
    await enter(federation.db, DIRECTOR)

    async def take_as_well() -> None:
        async with federation.db.write("another") as tx:
            await experiments.lock(tx, experiment_id)

    async with federation.db.write("holder") as tx:
        assert await take(tx, experiment_id), "it takes something"
        another = asyncio.create_task(take_as_well())
        assert await waits(another)

        await asyncio.wait_for(changes.share(federation.db, experiment_id, "somebody"), PATIENCE)

    await another
