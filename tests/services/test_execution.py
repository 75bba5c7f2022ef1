"""What a director owns is what the rows say, whatever became of an answer, of a task, or of the director itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import Unavailable
from director.store.engine.database import Database, Failpoints
from tests.services.replicas import running as at_work
from tests.services.words import collecting, complete, state_of
from tests.store.words import (
    PATIENCE,
    change,
    claim,
    die,
    enter,
    holding,
    one,
    only_postgresql,
    rows,
    running,
    seen_from_outside,
)
from tests.world import RESEARCHER, World, world

OWNER = "SELECT director_id, fence FROM experiments"
ROUNDS = "SELECT number FROM rounds"
MINUTES = timedelta(minutes=10)


class Timeout(Failpoints):
    """Loses the answers to the first transactions of a name: they are executed, and time out."""

    def __init__(self, name: str, *, times: int = 1) -> None:
        self._name, self._times = name, times

    def after(self, name: str) -> None:
        if name == self._name and self._times:
            self._times -= 1
            raise Unavailable("timed out")


class Broken(Failpoints):
    """Has a defect in the transactions of a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def before(self, name: str) -> None:
        if name == self._name:
            raise ZeroDivisionError("no such luck")


@pytest.fixture
async def slow(migrated_url: str) -> AsyncIterator[World]:
    """A federation that looks at everything only once in ten minutes, unless something wakes it."""
    async with world(migrated_url, poll=MINUTES) as opened:
        yield opened


@asynccontextmanager
async def let_go(federation: World) -> AsyncIterator[None]:
    """Let all loops go at the end."""
    try:
        yield
    finally:
        await federation.process.execution.drain()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


async def opened(db: Database) -> None:
    """Wait until a round is open."""
    await eventually(lambda: rows(db, ROUNDS))


def loops(experiment_id: int) -> list[str]:
    """The tasks that drive an experiment."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == f"experiment {experiment_id}"]


async def test_claim_whose_answer_was_lost_is_found_at_the_next_look(slow: World) -> None:
    await running(slow)
    me = slow.process.presence.director_id
    slow.db.failpoints = Timeout("claim")
    async with let_go(slow):
        with pytest.raises(Unavailable):
            await slow.process.execution.reconcile()
        assert await one(slow.db, OWNER) == (me, 1)

        await slow.process.execution.reconcile(hinted=False)
        await opened(slow.db)

        assert await one(slow.db, OWNER) == (me, 1)


async def test_experiment_is_driven_by_one_loop_however_often_it_is_looked_at(slow: World) -> None:
    experiment_id = await running(slow)
    async with let_go(slow):
        for _ in range(3):
            await slow.process.execution.reconcile()

        assert len(loops(experiment_id)) == 1


@pytest.mark.parametrize("taken", ["by another", "by another claim of its own", "by nobody"])
async def test_loop_whose_experiment_was_taken_away_is_stopped_by_the_next_look(slow: World, taken: str) -> None:
    experiment_id = await running(slow)
    await enter(slow.db, "another")
    async with let_go(slow):
        await slow.process.execution.reconcile()
        await opened(slow.db)
        [before] = [task for task in asyncio.all_tasks() if task.get_name() == f"experiment {experiment_id}"]
        owner = {"by another": "'another'", "by nobody": "NULL", "by another claim of its own": "director_id"}[taken]
        soon = (datetime.now(UTC) + timedelta(minutes=30)).strftime("%Y-%m-%d %H:%M:%S+00:00")
        resting = f"claimable_from = '{soon}'" if taken == "by nobody" else "fence = fence + 1"
        await change(slow.db, f"UPDATE experiments SET director_id = {owner}, {resting}")

        await slow.process.execution.reconcile()

        assert before.done()
        assert len(loops(experiment_id)) == (1 if taken == "by another claim of its own" else 0)


async def test_loop_that_is_woken_sees_by_itself_that_its_experiment_was_taken_away(slow: World) -> None:
    experiment_id = await running(slow)
    await enter(slow.db, "another")
    async with let_go(slow):
        await slow.process.execution.reconcile()
        await opened(slow.db)
        await change(slow.db, "UPDATE experiments SET director_id = 'another', fence = fence + 1")

        slow.process.runtime.wakeups.wake([("experiment", experiment_id)])

        async with asyncio.timeout(PATIENCE):
            while loops(experiment_id):
                await asyncio.sleep(0.01)


async def test_director_that_lost_its_lease_drives_nothing(slow: World) -> None:
    experiment_id = await running(slow)
    async with let_go(slow):
        await slow.process.execution.reconcile()
        await opened(slow.db)
        await change(slow.db, "UPDATE directors SET reaped_at = expires_at")
        await slow.process.presence.renew(slow.db)

        await slow.process.execution.reconcile()

        assert not loops(experiment_id)


async def test_director_that_drains_claims_nothing_more(slow: World) -> None:
    experiment_id = await running(slow)
    await slow.process.execution.drain()

    await slow.process.execution.reconcile()

    assert not loops(experiment_id)
    assert await one(slow.db, OWNER) == (None, 0)


@only_postgresql
async def test_late_answer_about_an_earlier_lease_says_nothing_of_the_one_of_now(slow: World) -> None:
    presence = slow.process.presence
    earlier = presence.director_id
    lost = "UPDATE directors SET reaped_at = expires_at WHERE id = :id RETURNING id"
    async with holding(slow.db, lost, id=earlier):
        renewing = asyncio.create_task(presence.renew(slow.db))
        await asyncio.sleep(0.2)
        await presence.enter()
    await renewing

    assert presence.director_id not in (None, earlier)


async def test_experiment_that_kills_each_director_rests_from_the_third_time_on_and_the_others_go_on(
    timed: World, clock: ManualClock
) -> None:
    poisoned = await collecting(timed, "poisoned")
    healthy = await collecting(timed, "healthy", ("c", "d"))
    await complete(timed, poisoned, "a", "b")
    await timed.steps(poisoned.fence).next()
    victims = [f"victim {number}" for number in range(5)]
    await enter(timed.db, *victims, "heir")
    await change(timed.db, "UPDATE experiments SET director_id = NULL")

    for victim in victims[:3]:
        claimed, _ = await claim(timed.db, victim)
        assert {fence.experiment_id for fence in claimed} == {poisoned.id, healthy.id}
        await die(timed.db, victim)

    [fence], _ = await claim(timed.db, "heir")
    assert fence.experiment_id == healthy.id
    assert await timed.process.explaining.why("poisoned", RESEARCHER) == [
        "the end of a pause of 10 s: it took its director down several times"
    ]
    await complete(timed, healthy, "c", "d")
    await timed.drive(fence)
    assert await rows(timed.db, "SELECT last_model FROM experiments ORDER BY id") == [0, 1]
    clock.advance(timedelta(seconds=10))
    [fence], _ = await claim(timed.db, victims[3])
    assert fence.experiment_id == poisoned.id
    await die(timed.db, victims[3])
    clock.advance(timedelta(seconds=19))
    assert await claim(timed.db, "heir") == ([], False)
    clock.advance(timedelta(seconds=1))
    [fence], _ = await claim(timed.db, "heir")
    await timed.drive(fence)
    assert await rows(timed.db, "SELECT last_model, crashes FROM experiments ORDER BY id") == [(1, 0), (1, 0)]


@only_postgresql
async def test_director_whose_event_loop_hangs_stops_renewing_and_enters_anew(migrated_url: str) -> None:
    async with world(migrated_url, lease=timedelta(seconds=1)) as hanging, at_work(hanging):
        await running(hanging)
        await opened(hanging.db)
        [before, *_] = await rows(hanging.db, "SELECT director_id FROM experiments")

        time.sleep(3)  # noqa: ASYNC251 - it hangs
        expired = seen_from_outside(migrated_url, "SELECT expires_at <= clock_timestamp() FROM directors")

        assert expired == [True]
        await eventually(lambda: rows(hanging.db, f"{OWNER} WHERE director_id <> :before AND fence > 1", before=before))
        [reaped] = await rows(
            hanging.db, "SELECT reaped_at IS NOT NULL FROM directors WHERE id = :before", before=before
        )
        assert reaped


async def test_step_that_fails_again_and_again_fails_the_experiment_with_the_reason(
    federation: World,
) -> None:
    await running(federation)
    federation.db.failpoints = Broken("open round")
    async with let_go(federation):
        await federation.process.execution.reconcile()
        async with asyncio.timeout(20):
            while not (await state_of(federation)).terminal:
                await asyncio.sleep(0.05)

    view = await federation.process.experiments.get("experiment", RESEARCHER)
    assert view.experiment.state is ExperimentState.FAILED
    assert view.experiment.reason == "the director could not go on: ZeroDivisionError: no such luck"
    assert await rows(federation.db, "SELECT envoy FROM collaborators WHERE state <> 'released'") == []


async def test_experiment_whose_plan_cannot_be_read_fails_with_the_reason(migrated_url: str) -> None:
    async with world(migrated_url) as before:
        await running(before)
        await change(before.db, "UPDATE experiments SET plan = :plan", plan='{"of": "another version"}')

    async with world(migrated_url, seed=2) as restarted, let_go(restarted):
        await restarted.process.execution.reconcile()
        async with asyncio.timeout(20):
            while (await rows(restarted.db, "SELECT state FROM experiments")) != ["failed"]:
                await asyncio.sleep(0.05)

        [reason] = await rows(restarted.db, "SELECT reason FROM experiments")
    assert reason.startswith("the director could not go on: ")
