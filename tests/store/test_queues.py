"""Each envoy is handed its own experiment, one at a time, and by the last hand-out only."""

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.envoy import Engagement
from director.domain.experiment import Collaborator, Failure
from director.domain.history import EventKind
from director.domain.types import AssignmentState, CollaboratorState, ExperimentId, ExperimentState
from director.errors import NotFound, StaleAttempt
from director.services import endings
from director.store import experiment_states, experiments, queues
from director.store.engine.database import Database
from director.store.engine.topics import Topic
from tests.store.words import PATIENCE, only_postgresql, owned, running, waits
from tests.tables import changes, event_rows, experiment_rows, locks, round_rows
from tests.world import World


async def hand_out(db: Database, *envoys: str, again: tuple[str, ...] = ()) -> tuple[dict[str, Engagement], bool]:
    async with db.write("hand out") as tx:
        return await queues.hand_out(tx, envoys, again=again)


async def get(db: Database, experiment_id: ExperimentId, envoy: str, attempt: int | None = None) -> Collaborator:
    async with db.read() as tx:
        return await queues.get(tx, experiment_id, envoy, attempt=attempt)


async def fail(db: Database, experiment_id: ExperimentId, envoy: str, message: str = "broken") -> bool:
    async with db.write("fail") as tx:
        await experiments.lock(tx, experiment_id)
        return await queues.fail(tx, experiment_id, envoy, Failure(message, task="train", error_type="OSError"))


async def engagement(federation: World, name: str, *, attempt: int = 1) -> Engagement:
    """What an envoy is handed of an experiment."""
    return Engagement((await federation.row(name)).uid, name, attempt)


async def end(db: Database, experiment_id: ExperimentId, state: ExperimentState) -> None:
    async with db.write("end") as tx:
        await experiments.lock(tx, experiment_id)
        await endings.end(tx, experiment_id, state)


async def test_each_envoy_is_given_its_own_experiment(federation: World) -> None:
    first = await running(federation, "first", envoys=("a", "b"))
    await running(federation, "second", envoys=("c",))

    given, skipped = await hand_out(federation.db, "c", "a", "stranger")

    assert given == {"a": await engagement(federation, "first"), "c": await engagement(federation, "second")}
    assert not skipped
    assert await round_rows.collaborators(federation.db) == [("a", "assigned"), ("b", "queued"), ("c", "assigned")]
    *_, last = await event_rows.of(federation.db, first)
    assert (last.kind, last.actor, last.details) == (EventKind.EXPERIMENT_GIVEN, "a", {"attempt": 1})


async def test_what_was_handed_out_is_not_handed_out_again_to_one_that_waits_on(federation: World) -> None:
    await running(federation)
    await hand_out(federation.db, "a")

    assert await hand_out(federation.db, "a") == ({}, False)


async def test_what_was_handed_out_is_offered_again_to_one_that_asks_again(federation: World) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a", "b")
    async with federation.db.write("work") as tx:
        await queues.start_working(tx, experiment_id, "b")
    assert await round_rows.collaborators(federation.db) == [("a", "assigned"), ("b", "working")]

    given, _ = await hand_out(federation.db, "a", "b", again=("a", "b"))

    assert {envoy: each.attempt for envoy, each in given.items()} == {"a": 2, "b": 2}
    assert await round_rows.collaborators(federation.db) == [("a", "assigned"), ("b", "assigned")]


async def test_envoy_that_asks_again_is_given_what_is_queued_too(federation: World) -> None:
    await running(federation)

    given, _ = await hand_out(federation.db, again=("a",))

    assert given == {"a": await engagement(federation, "experiment")}


@pytest.mark.parametrize("again", [(), ("a",)], ids=["waits", "asks again"])
async def test_ended_experiment_is_not_handed_out(federation: World, again: tuple[str, ...]) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a")
    await end(federation.db, experiment_id, ExperimentState.CANCELLED)

    assert await hand_out(federation.db, "a", "b", again=again) == ({}, False)
    assert await round_rows.collaborators(federation.db) == [("a", "released"), ("b", "released")]


async def test_pending_experiment_is_not_handed_out(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit()

    async with federation.db.read() as tx:
        assert not await queues.anything_for(tx, ["a", "b"], again=["a"])
    assert await hand_out(federation.db, "a", again=("a",)) == ({}, False)


async def test_experiment_that_does_not_run_is_not_handed_out_whatever_its_collaborators_rows_say(
    federation: World,
) -> None:
    await running(federation)
    await changes.end_experiments_alone(federation.db)

    assert await hand_out(federation.db, "a", again=("b",)) == ({}, False)

    assert await round_rows.collaborators(federation.db) == [("a", "queued"), ("b", "queued")]


async def test_looking_for_something_to_hand_out_hands_out_nothing(federation: World) -> None:
    await running(federation)

    async with federation.db.read() as tx:
        assert await queues.anything_for(tx, ["a"], again=[])
        assert not await queues.anything_for(tx, ["stranger"], again=["stranger"])

    assert await round_rows.collaborators(federation.db) == [("a", "queued"), ("b", "queued")]


async def test_experiment_is_handed_out_once_however_many_ask_for_its_envoy(federation: World) -> None:
    await running(federation)

    outcomes = await asyncio.gather(*(hand_out(federation.db, "a", "b") for _ in range(6)))

    given = [envoy for outcome, _ in outcomes for envoy in outcome]
    assert sorted(given) == ["a", "b"]
    assert await round_rows.attempts(federation.db) == [("a", 1), ("b", 1)]


async def test_nobody_serves_two(federation: World) -> None:
    await running(federation, "first")
    second = (await federation.submit("second", envoys=("b",))).id
    await federation.admit()
    assert await round_rows.collaborators(federation.db) == [("a", "queued"), ("b", "queued"), ("b", "waiting")]

    with pytest.raises(IntegrityError):
        async with federation.db.write("careless admission") as tx:
            await experiment_states.start(tx, second, eligible_at=await tx.now())
            await queues.enqueue(tx, second)

    assert await experiment_rows.state(federation.db, second) == "pending"


async def test_envoy_whose_part_ended_is_free_for_the_next_experiment(federation: World) -> None:
    first = await running(federation, "first")
    await federation.submit("second", envoys=("b",))
    await fail(federation.db, first, "b")

    await federation.admit()

    given, _ = await hand_out(federation.db, "b")
    assert given == {"b": await engagement(federation, "second")}


@only_postgresql
async def test_hand_out_passes_by_what_is_locked_and_says_so(federation: World) -> None:
    first = await running(federation, "first", envoys=("a",))
    await running(federation, "second", envoys=("b",))
    async with locks.experiment(federation.db, first):
        given, skipped = await asyncio.wait_for(hand_out(federation.db, "a", "b"), PATIENCE)

    assert (list(given), skipped) == (["b"], True)
    assert given["b"].experiment_name == "second"
    assert (await hand_out(federation.db, "a", "b"))[0].keys() == {"a"}


@only_postgresql
async def test_hand_out_keeps_others_from_the_experiment_until_it_has_committed(federation: World) -> None:
    experiment_id = await running(federation)
    async with federation.db.write("hand out") as tx:
        await queues.hand_out(tx, ["a"])
        cancelling = asyncio.create_task(end(federation.db, experiment_id, ExperimentState.CANCELLED))
        assert await waits(cancelling)

    await cancelling
    assert await round_rows.collaborators(federation.db) == [("a", "released"), ("b", "released")]


async def test_older_attempt_is_stale(federation: World) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a")
    await hand_out(federation.db, again=("a",))

    assert (await get(federation.db, experiment_id, "a", 2)).attempt == 2
    assert (await get(federation.db, experiment_id, "a")).attempt == 2
    for attempt in (1, 3):
        with pytest.raises(StaleAttempt):
            await get(federation.db, experiment_id, "a", attempt)


async def test_envoy_that_takes_no_part_or_was_never_given_it_is_not_found(federation: World) -> None:
    experiment_id = await running(federation)

    for envoy in ("a", "stranger"):
        with pytest.raises(NotFound):
            await get(federation.db, experiment_id, envoy)


async def test_envoy_works_once_it_was_given_tasks(federation: World) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a")

    async with federation.db.write("work") as tx:
        await queues.start_working(tx, experiment_id, "a")
        await queues.start_working(tx, experiment_id, "b")

    assert await round_rows.collaborators(federation.db) == [("a", "working"), ("b", "queued")]


async def test_failure_frees_the_envoy_keeps_its_words_and_is_recorded_once(federation: World) -> None:
    experiment_id = await running(federation)
    topics: list[Topic] = []
    federation.db.on_commit = topics.extend

    assert await fail(federation.db, experiment_id, "a", "first")
    woken = list(topics)
    assert not await fail(federation.db, experiment_id, "a", "second")

    async with federation.db.read() as tx:
        found = await queues.of_experiment(tx, experiment_id)
    assert found == [
        Collaborator("a", CollaboratorState.FAILED, 0, Failure("first", task="train", error_type="OSError")),
        Collaborator("b", CollaboratorState.QUEUED, 0),
    ]
    assert set(woken) == {Topic.admission(), Topic.experiment(experiment_id), Topic.envoy("a")}
    assert topics == woken


async def test_failure_closes_the_open_assignment_and_no_other(federation: World) -> None:
    fence = await owned(federation)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    await federation.finish_round(given)
    await federation.drive(fence)

    async with federation.db.write("fail") as tx:
        await experiments.lock(tx, fence.experiment_id)
        await queues.fail_assignment(tx, fence.experiment_id, "a")

    assert await round_rows.assignments_of_all(federation.db) == [
        (1, "a", AssignmentState.COUNTED),
        (1, "b", AssignmentState.COUNTED),
        (2, "a", AssignmentState.FAILED),
        (2, "b", AssignmentState.ASKED),
    ]


@pytest.mark.parametrize("finished", [True, False])
async def test_all_parts_end_with_the_experiment(federation: World, finished: bool) -> None:
    experiment_id = await running(federation, envoys=("a", "b", "c", "d"))
    await hand_out(federation.db, "a", "b", "c")
    async with federation.db.write("work") as tx:
        await queues.start_working(tx, experiment_id, "a")
    await fail(federation.db, experiment_id, "c")

    async with federation.db.write("end") as tx:
        await queues.end_all(tx, experiment_id, finished=finished)

    end = "done" if finished else "released"
    assert await round_rows.collaborators(federation.db) == [("a", end), ("b", end), ("c", "failed"), ("d", "released")]
    assert await round_rows.collaborators_not_ended(federation.db) == []


async def test_admission_queues_only_who_waits(federation: World) -> None:
    experiment_id = await running(federation)
    await fail(federation.db, experiment_id, "a")

    async with federation.db.write("again") as tx:
        assert await queues.enqueue(tx, experiment_id) == []

    assert await round_rows.collaborators(federation.db) == [("a", "failed"), ("b", "queued")]
