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
from director.store.engine.topics import Topic
from tests.services.replicas import running as at_work
from tests.services.words import collecting, complete, state_of
from tests.store.words import PATIENCE, claim, die, enter, only_postgresql, running
from tests.tables import changes, experiment_rows, locks, presence_rows, round_rows
from tests.world import RESEARCHER, World, world

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
    await eventually(lambda: round_rows.numbers(db))


async def has_another_owner(db: Database, before: str | None) -> bool:
    [(_, owner, fence)] = await experiment_rows.owners(db)
    return owner not in (None, before) and fence > 1


def loops(experiment_id: int) -> list[str]:
    """The tasks that drive an experiment."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == f"experiment {experiment_id}"]


async def test_claim_whose_answer_was_lost_is_found_at_the_next_look(slow: World) -> None:
    experiment_id = await running(slow)
    me = slow.process.presence.director_id
    slow.db.failpoints = Timeout("claim")
    async with let_go(slow):
        with pytest.raises(Unavailable):
            await slow.process.execution.reconcile()
        assert await experiment_rows.owners(slow.db) == [(experiment_id, me, 1)]

        await slow.process.execution.reconcile(woken=False)
        await opened(slow.db)

        assert await experiment_rows.owners(slow.db) == [(experiment_id, me, 1)]


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
        async with slow.db.write("take away") as tx:
            if taken != "by another claim of its own":
                await changes.give_to(tx, "another" if taken == "by another" else None)
            if taken == "by nobody":
                await changes.rest_until(tx, datetime.now(UTC) + timedelta(minutes=30))
            else:
                await changes.raise_fences(tx)

        await slow.process.execution.reconcile()

        assert before.done()
        assert len(loops(experiment_id)) == (1 if taken == "by another claim of its own" else 0)


async def test_loop_that_is_woken_sees_by_itself_that_its_experiment_was_taken_away(slow: World) -> None:
    experiment_id = await running(slow)
    await enter(slow.db, "another")
    async with let_go(slow):
        await slow.process.execution.reconcile()
        await opened(slow.db)
        async with slow.db.write("take away") as tx:
            await changes.give_to(tx, "another")
            await changes.raise_fences(tx)

        slow.process.runtime.wakeups.wake([Topic.experiment(experiment_id)])

        async with asyncio.timeout(PATIENCE):
            while loops(experiment_id):
                await asyncio.sleep(0.01)


async def test_director_that_lost_its_lease_drives_nothing(slow: World) -> None:
    experiment_id = await running(slow)
    async with let_go(slow):
        await slow.process.execution.reconcile()
        await opened(slow.db)
        await changes.declare_dead(slow.db)
        await slow.process.presence.renew(slow.db)

        await slow.process.execution.reconcile()

        assert not loops(experiment_id)


async def test_director_that_drains_claims_nothing_more(slow: World) -> None:
    experiment_id = await running(slow)
    await slow.process.execution.drain()

    await slow.process.execution.reconcile()

    assert not loops(experiment_id)
    assert await experiment_rows.owners(slow.db) == [(experiment_id, None, 0)]


@only_postgresql
async def test_late_answer_about_an_earlier_lease_says_nothing_of_the_one_of_now(slow: World) -> None:
    presence = slow.process.presence
    earlier = presence.director_id
    assert earlier is not None
    async with locks.director_that_is_declared_dead(slow.db, earlier):
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
    await changes.give_to(timed.db, None)

    for victim in victims[:3]:
        claimed, _ = await claim(timed.db, victim)
        assert {fence.experiment_id for fence in claimed} == {poisoned.id, healthy.id}
        await die(timed.db, victim)

    [fence], _ = await claim(timed.db, "heir")
    assert fence.experiment_id == healthy.id
    assert (await timed.process.experiments.get("poisoned", RESEARCHER)).waiting_for == (
        "the end of a pause of 10 s: it took its director down several times",
    )
    await complete(timed, healthy, "c", "d")
    await timed.drive(fence)
    assert await experiment_rows.last_models(timed.db) == [0, 1]
    clock.advance(timedelta(seconds=10))
    [fence], _ = await claim(timed.db, victims[3])
    assert fence.experiment_id == poisoned.id
    await die(timed.db, victims[3])
    clock.advance(timedelta(seconds=19))
    assert await claim(timed.db, "heir") == ([], False)
    clock.advance(timedelta(seconds=1))
    [fence], _ = await claim(timed.db, "heir")
    await timed.drive(fence)
    assert await experiment_rows.last_models(timed.db) == [1, 1]
    assert await experiment_rows.crashes(timed.db) == [0, 0]


@only_postgresql
async def test_director_whose_event_loop_hangs_stops_renewing_and_enters_again(migrated_url: str) -> None:
    async with world(migrated_url, lease=timedelta(seconds=1)) as hanging, at_work(hanging):
        await running(hanging)
        await opened(hanging.db)
        [(_, before, _)] = await experiment_rows.owners(hanging.db)

        time.sleep(3)  # noqa: ASYNC251 - it hangs
        expired = presence_rows.are_leases_expired_from_outside(migrated_url)

        assert expired == [True]
        await eventually(lambda: has_another_owner(hanging.db, before))
        assert before in await presence_rows.directors_dead(hanging.db)


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
    assert view.state is ExperimentState.FAILED
    assert view.reason == "the director could not go on: ZeroDivisionError: no such luck"
    assert {state for _, state in await round_rows.collaborators(federation.db)} == {"released"}


async def test_experiment_whose_plan_cannot_be_read_fails_with_the_reason(migrated_url: str) -> None:
    async with world(migrated_url) as before:
        await running(before)
        await changes.replace_plan(before.db, '{"of": "another version"}')

    async with world(migrated_url, seed=2) as restarted, let_go(restarted):
        await restarted.process.execution.reconcile()
        async with asyncio.timeout(20):
            while (await experiment_rows.states(restarted.db)) != ["failed"]:
                await asyncio.sleep(0.05)

        [(_, reason)] = await experiment_rows.outcomes(restarted.db)
    assert reason is not None
    assert reason.startswith("the director could not go on: ")
