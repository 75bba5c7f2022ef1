"""What admission decides from."""

import asyncio
from datetime import timedelta

import pytest

from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.services.runtime import Caller
from director.store import experiments, federations, pending
from director.store.engine.database import Database
from director.store.pending import Queue
from tests.store.words import PATIENCE, explained, live, only_postgresql, recorded_statements, running, waits
from tests.tables import changes, crowds, event_rows, experiment_rows, round_rows
from tests.world import PLAN, World

LEASE = timedelta(seconds=10)


async def queue(db: Database) -> Queue:
    async with db.write("admission") as tx:
        return await pending.read(tx, lease=LEASE)


async def test_queue_holds_the_pending_experiments_in_rank_order(federation: World) -> None:
    await federation.register("a", "b")
    first = (await federation.submit("first")).id
    second = (await federation.submit("second")).id
    urgent = (await federation.submit("urgent", priority=1, caller=Caller("chief", operator=True))).id
    await federation.submit("unapproved", plan=f"{PLAN}\nreview: manual")

    found = await queue(federation.db)

    assert [each.id for each in found.pending] == [urgent, first, second]
    assert set(found.locked) == {first, second, urgent}
    assert [each.envoy for each in found.pending[0].candidates] == ["a", "b"]
    assert (found.engaged, found.running) == ({}, {})


async def test_queue_knows_who_is_engaged_and_what_runs(federation: World) -> None:
    first = await running(federation, "first")
    second = await running(federation, "second", envoys=("c",))

    found = await queue(federation.db)

    assert found.pending == []
    assert found.engaged == {"a": first, "b": first, "c": second}
    assert found.running == {"researcher": 2}


async def test_absence_before_an_experiment_was_submitted_does_not_count_against_it(
    timed: World, clock: ManualClock
) -> None:
    await timed.register("a")
    await live(timed, clock, 300)
    await timed.submit(envoys=("a",))
    await live(timed, clock, 30)

    [candidate] = (await queue(timed.db)).pending[0].candidates

    assert not candidate.online
    assert candidate.absence == pytest.approx(30)


@only_postgresql
async def test_experiment_that_is_locked_keeps_its_place_and_is_left_alone(federation: World) -> None:
    await federation.register("a", "b")
    first = (await federation.submit("first")).id
    second = (await federation.submit("second")).id
    async with federation.db.write("somebody") as tx:
        await experiments.lock(tx, first)

        found = await asyncio.wait_for(queue(federation.db), PATIENCE)

    assert [each.id for each in found.pending] == [first, second]
    assert set(found.locked) == {second}


@only_postgresql
async def test_admission_waits_for_its_duty_and_others_pass_by_theirs(db: Database) -> None:
    async def take(name: str, *, wait: bool) -> bool:
        async with db.write("duty") as tx:
            return await federations.take_job(tx, name, wait=wait)

    async with db.write("duty") as tx:
        assert await federations.take_job(tx, federations.ADMISSION, wait=True)
        assert await federations.take_job(tx, federations.SESSIONS, wait=False)
        second = asyncio.create_task(take(federations.ADMISSION, wait=True))
        assert await waits(second)
        assert not await asyncio.wait_for(take(federations.SESSIONS, wait=False), PATIENCE)

    assert await second
    assert await take(federations.SESSIONS, wait=False)


async def test_two_admissions_at_once_start_an_experiment_once(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit()

    await asyncio.gather(*(federation.admit() for _ in range(4)))

    assert len(await event_rows.of_kind(federation.db, "experiment_started")) == 1
    assert await round_rows.collaborators(federation.db) == [("a", "queued"), ("b", "queued")]


@only_postgresql
async def test_experiment_that_is_locked_starts_later_and_nobody_waits_for_it(federation: World) -> None:
    await federation.register("a", "b")
    first = (await federation.submit("first")).id
    await federation.submit("second")
    async with federation.db.write("somebody") as tx:
        await experiments.lock(tx, first)

        assert await asyncio.wait_for(federation.process.admission.admit(), PATIENCE)

    assert await experiment_rows.states(federation.db) == ["pending", "pending"]
    assert not await federation.process.admission.admit()
    assert await experiment_rows.states(federation.db) == ["in_progress", "pending"]


@only_postgresql
async def test_experiment_that_is_locked_fails_later_and_nobody_waits_for_it(timed: World, clock: ManualClock) -> None:
    await timed.register("a")
    view = await timed.submit(envoys=("a",), plan=f"{PLAN}\nstart_deadline: 1m")
    await live(timed, clock, 300)
    async with timed.db.write("somebody") as tx:
        await experiments.lock(tx, view.id)

        assert await asyncio.wait_for(timed.process.admission.admit(), PATIENCE)

    assert await experiment_rows.states(timed.db) == ["pending"]
    assert not await timed.process.admission.admit()
    assert await experiment_rows.states(timed.db) == ["failed"]


async def test_nothing_is_admitted_before_an_outage_is_accounted_for(timed: World, clock: ManualClock) -> None:
    await timed.register("a", "b")
    await timed.submit()
    clock.advance(timedelta(minutes=5))

    assert await timed.process.admission.admit()
    assert await experiment_rows.states(timed.db) == ["pending"]

    assert not await timed.process.admission.admit()
    assert await experiment_rows.states(timed.db) == ["in_progress"]


async def test_queue_is_read_by_the_indexes_of_what_is_open(federation: World) -> None:
    experiment_id = await running(federation, envoys=("a",))
    await changes.clone(federation.db, experiment_id, "waits", state=ExperimentState.PENDING)
    with recorded_statements() as statements:
        await queue(federation.db)
    await crowds.crowd(federation.db, experiment_id)

    plans = [await explained(federation.db, *each) for each in statements if each[0].startswith("SELECT")]

    assert sum(experiment_rows.PENDING_INDEX in plan for plan in plans) >= 2
    assert sum(round_rows.ENGAGED_INDEX in plan for plan in plans) == 1
