"""A round is frozen once, closed once or abandoned, and its tallies and lengths are stored when it ends."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.envoy import Engagement
from director.domain.experiment import Failure
from director.domain.plan import Plan
from director.domain.steps import Open
from director.domain.types import ExperimentState, RoundKind, RoundState
from director.effects import ManualClock
from director.errors import NotFound
from director.services import endings
from director.store import experiments, rounds
from director.store.engine.database import Database, Transaction
from director.store.leases import Fence
from tests.store.words import live, owned
from tests.tables import blob_rows, event_rows, experiment_rows, result_rows, round_rows
from tests.world import World


@pytest.fixture
async def fence(timed: World) -> Fence:
    """An owned experiment of three envoys whose first round collects."""
    fence = await owned(timed, envoys=("a", "b", "c"))
    await timed.drive(fence)
    return fence


@pytest.fixture
async def db(timed: World) -> Database:
    """The database of the federation whose time stands still."""
    return timed.db


async def give(timed: World) -> dict[str, Engagement]:
    return {envoy: await timed.wait(envoy) for envoy in ("a", "b", "c")}


async def freeze(db: Database, fence: Fence, *complete: str, number: int = 1) -> bool:
    async with db.write("freeze") as tx:
        await experiments.lock(tx, fence.experiment_id)
        return await rounds.freeze(tx, fence.experiment_id, number, complete=complete)


async def close(db: Database, fence: Fence, *, number: int = 1) -> bool:
    async with db.write("close") as tx:
        await experiments.lock(tx, fence.experiment_id)
        return await rounds.close(tx, fence.experiment_id, number, samples=30, score=0.5)


async def abandon(db: Database, fence: Fence) -> int | None:
    async with db.write("abandon") as tx:
        await experiments.lock(tx, fence.experiment_id)
        number = await rounds.abandon(tx, fence.experiment_id)
        if number is not None:
            await rounds.release_updates(tx, fence.experiment_id, number)
        return number


async def test_round_is_open_for_whom_it_asked(db: Database, fence: Fence) -> None:
    async with db.read() as tx:
        found = await rounds.current(tx, fence.experiment_id)
        mine = await rounds.assignment(tx, fence.experiment_id, "a")
        strangers = await rounds.assignment(tx, fence.experiment_id, "stranger")

    assert found is not None
    assert (found.number, found.kind, found.state, found.first_task) == (
        1,
        RoundKind.TRAIN,
        RoundState.COLLECTING,
        None,
    )
    assert found.deadline == pytest.approx(timedelta(hours=24).total_seconds())
    assert mine is not None
    assert (mine.open, mine.todo, mine.given_at) == (True, ["train", "validate"], None)
    assert strangers is None
    assert await round_rows.tally(db, 1) == ("collecting", 3, None, None, None, None, None)


async def test_experiment_has_one_open_round(db: Database, fence: Fence) -> None:
    async def open_another(tx: Transaction) -> None:
        experiment = await experiments.get(tx, fence.experiment_id)
        step = Open(2, RoundKind.TRAIN, ("a",), 0.0)
        await rounds.open_(tx, fence.experiment_id, step, experiment.plan)

    with pytest.raises(IntegrityError):
        async with db.write("open") as tx:
            await open_another(tx)

    await abandon(db, fence)
    async with db.write("open") as tx:
        await open_another(tx)


async def test_final_round_asks_only_for_validation(timed: World) -> None:
    fence = await owned(timed)
    async with timed.db.write("open") as tx:
        plan: Plan = (await experiments.get(tx, fence.experiment_id)).plan
        await rounds.open_(tx, fence.experiment_id, Open(3, RoundKind.FINAL, ("a",), 0.0), plan)
        found = await rounds.assignment(tx, fence.experiment_id, "a")

    assert found is not None
    assert (found.kind, found.tasks) == (RoundKind.FINAL, ["validate"])


async def test_first_tasks_given_start_the_cutoff_and_later_ones_do_not_move_it(
    timed: World, clock: ManualClock, fence: Fence
) -> None:
    async def give(envoy: str) -> None:
        async with timed.db.write("give") as tx:
            await rounds.give(tx, fence.experiment_id, 1, envoy)

    clock.advance(timedelta(seconds=1))
    await give("a")
    first = await round_rows.first_task_given(timed.db)
    clock.advance(timedelta(seconds=1))
    await give("b")
    await give("a")

    assert await round_rows.first_task_given(timed.db) == first == pytest.approx(1)
    assert await round_rows.given_their_tasks(timed.db) == ["a", "b"]


async def test_freeze_decides_who_counts(timed: World, clock: ManualClock, fence: Fence) -> None:
    clock.advance(timedelta(seconds=4))

    assert await freeze(timed.db, fence, "a", "c")

    assert await round_rows.assignments(timed.db, 1) == [("a", "counted"), ("b", "missed"), ("c", "counted")]
    assert await round_rows.tally(timed.db, 1) == ("aggregating", 3, 2, 1, 0, None, None)
    assert await round_rows.lengths(timed.db, 1) == (4.0, None)


async def test_round_is_frozen_once(db: Database, fence: Fence) -> None:
    await freeze(db, fence, "a")

    assert not await freeze(db, fence, "a", "b", "c")

    assert await round_rows.assignments(db, 1) == [("a", "counted"), ("b", "missed"), ("c", "missed")]


async def test_failed_assignment_is_neither_counted_nor_missed(timed: World, fence: Fence) -> None:
    given = await timed.wait("b")
    uid, failure = given.experiment_uid, Failure("broken")
    await timed.process.envoys.report_failure("b", uid, attempt=given.attempt, failure=failure)

    await freeze(timed.db, fence, "a")

    assert await round_rows.assignments(timed.db, 1) == [("a", "counted"), ("b", "failed"), ("c", "missed")]
    assert await round_rows.tally(timed.db, 1) == ("aggregating", 3, 1, 1, 1, None, None)


async def test_closed_round_keeps_its_length_its_samples_and_its_score(
    timed: World, clock: ManualClock, fence: Fence
) -> None:
    clock.advance(timedelta(seconds=4))
    await freeze(timed.db, fence, "a", "b", "c")
    clock.advance(timedelta(seconds=2))

    assert await close(timed.db, fence)

    assert await round_rows.tally(timed.db, 1) == ("closed", 3, 3, 0, 0, 30, 0.5)
    assert await round_rows.lengths(timed.db, 1) == (4.0, 6.0)


async def test_only_the_round_that_was_frozen_is_closed_and_only_once(db: Database, fence: Fence) -> None:
    assert not await close(db, fence)
    await freeze(db, fence, "a")
    assert not await close(db, fence, number=2)
    assert await round_rows.states(db) == ["aggregating"]
    assert await close(db, fence)

    assert not await close(db, fence)
    assert not await freeze(db, fence, "a")
    assert await abandon(db, fence) is None


async def test_loop_that_comes_too_late_finds_the_updates_gone_and_closes_nothing(timed: World, fence: Fence) -> None:
    await timed.finish_round(await give(timed))
    await timed.steps(fence).next()
    async with timed.db.read() as tx:
        experiment = await experiments.get(tx, fence.experiment_id)
    await timed.steps(fence).next()
    assert await round_rows.states(timed.db) == ["closed", "collecting"]

    with pytest.raises(NotFound, match="its round has ended"):
        await timed.steps(fence)._close(experiment, 1)

    assert await round_rows.states(timed.db) == ["closed", "collecting"]
    assert [number for number, _ in await result_rows.model_digests(timed.db)] == [0, 1]


@pytest.mark.parametrize("frozen", [False, True], ids=["collecting", "aggregating"])
async def test_abandoned_round_lets_its_updates_go(
    timed: World, clock: ManualClock, fence: Fence, frozen: bool
) -> None:
    await timed.finish_round({"a": await timed.wait("a")})
    clock.advance(timedelta(seconds=5))
    if frozen:
        await freeze(timed.db, fence, "a")
    clock.advance(timedelta(seconds=2))

    assert await abandon(timed.db, fence) == 1

    assert await round_rows.lengths(timed.db, 1) == (5.0 if frozen else None, 7.0)
    counted, missed = (1, 2) if frozen else (0, 3)
    assert await round_rows.tally(timed.db, 1) == ("abandoned", 3, counted, missed, 0, None, None)
    [update] = [each for each in await result_rows.contributions(timed.db) if each.task == "train"]
    assert update.blob is None
    assert update.digest is not None
    await timed.process.periodic_jobs.sweep()
    assert await blob_rows.uploaded_for(timed.db, "contribution") == []
    assert await abandon(timed.db, fence) is None


async def test_closed_round_lets_its_updates_go_and_keeps_their_digests(timed: World, fence: Fence) -> None:
    await timed.finish_round(await give(timed))
    await timed.drive(fence)
    await timed.process.periodic_jobs.sweep()

    assert len([each for each in await result_rows.contributions(timed.db) if each.digest is not None]) == 3
    assert await result_rows.updates_held(timed.db) == []
    kept = await blob_rows.upload_keys(timed.db)
    assert [key and key.split("/")[0] for key in kept] == ["submission", "submission", "fold"]


@pytest.mark.parametrize("ends", range(4))
async def test_experiment_ends_once_whichever_end_comes_first(timed: World, fence: Fence, ends: int) -> None:
    states = [ExperimentState.FINISHED, ExperimentState.FAILED, ExperimentState.CANCELLED, ExperimentState.CANCELLED]
    states = states[ends:] + states[:ends]

    async def end(state: ExperimentState) -> bool:
        async with timed.db.write("end") as tx:
            await experiments.lock(tx, fence.experiment_id)
            return await endings.end(tx, fence.experiment_id, state)

    outcomes = await asyncio.gather(*(end(state) for state in states))

    assert sorted(outcomes) == [False, False, False, True]
    assert await experiment_rows.states(timed.db) == [states[outcomes.index(True)]]
    kinds = ("experiment_finished", "experiment_failed", "experiment_cancelled", "round_abandoned")
    assert len(await event_rows.of_kind(timed.db, *kinds)) == 2


async def test_time_that_nobody_was_up_is_part_of_a_rounds_length_as_people_see_it(
    timed: World, clock: ManualClock, fence: Fence
) -> None:
    await live(timed, clock, 10)
    clock.advance(timedelta(hours=1))
    await freeze(timed.db, fence, "a")

    collecting, _ = await round_rows.lengths(timed.db, 1)
    assert collecting == pytest.approx(3610, abs=1)
