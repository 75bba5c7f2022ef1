"""Each envoy is handed its own experiment, one at a time, and by the last hand-out only."""

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.messages import EventKind
from director.domain.types import AssignmentState, CollaboratorState, ExperimentId, ExperimentState
from director.errors import NotFound, StaleAttempt
from director.services import endings
from director.store import events, experiments, queues
from director.store.engine.database import Database, Hint
from director.store.envoys import Engagement
from tests.store.words import PATIENCE, change, holding, only_postgresql, owned, rows, running, waits
from tests.world import World

STATES = "SELECT envoy, state FROM collaborators ORDER BY experiment_id, envoy"


async def hand_out(db: Database, *envoys: str, again: tuple[str, ...] = ()) -> tuple[dict[str, Engagement], bool]:
    async with db.write("hand out") as tx:
        return await queues.hand_out(tx, envoys, again=again)


async def get(db: Database, experiment_id: ExperimentId, envoy: str, attempt: int | None = None) -> queues.Collaborator:
    async with db.read() as tx:
        return await queues.get(tx, experiment_id, envoy, attempt=attempt)


async def fail(db: Database, experiment_id: ExperimentId, envoy: str, error: str = "broken") -> bool:
    async with db.write("fail") as tx:
        await experiments.lock(tx, experiment_id)
        return await queues.fail(tx, experiment_id, envoy, error)


async def end(db: Database, experiment_id: ExperimentId, state: ExperimentState) -> None:
    async with db.write("end") as tx:
        await experiments.lock(tx, experiment_id)
        await endings.end(tx, experiment_id, state)


async def test_each_envoy_is_given_its_own_experiment(federation: World) -> None:
    first = await running(federation, "first", envoys=("a", "b"))
    second = await running(federation, "second", envoys=("c",))

    given, skipped = await hand_out(federation.db, "c", "a", "stranger")

    assert given == {"a": Engagement(first, "first", 1), "c": Engagement(second, "second", 1)}
    assert not skipped
    assert await rows(federation.db, STATES) == [("a", "assigned"), ("b", "queued"), ("c", "assigned")]
    async with federation.db.read() as tx:
        *_, last = await events.after(tx, first, 0, limit=100)
    assert (last.kind, last.actor, last.details) == (EventKind.EXPERIMENT_GIVEN, "a", {"attempt": 1})


async def test_what_was_handed_out_is_not_handed_out_again_to_one_that_waits_on(federation: World) -> None:
    await running(federation)
    await hand_out(federation.db, "a")

    assert await hand_out(federation.db, "a") == ({}, False)


async def test_what_was_handed_out_is_offered_again_to_one_that_asks_anew(federation: World) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a", "b")
    async with federation.db.write("work") as tx:
        await queues.start_working(tx, experiment_id, "b")
    assert await rows(federation.db, STATES) == [("a", "assigned"), ("b", "working")]

    given, _ = await hand_out(federation.db, "a", "b", again=("a", "b"))

    assert {envoy: each.attempt for envoy, each in given.items()} == {"a": 2, "b": 2}
    assert await rows(federation.db, STATES) == [("a", "assigned"), ("b", "assigned")]


async def test_envoy_that_asks_anew_is_given_what_is_queued_too(federation: World) -> None:
    experiment_id = await running(federation)

    given, _ = await hand_out(federation.db, again=("a",))

    assert given == {"a": Engagement(experiment_id, "experiment", 1)}


@pytest.mark.parametrize("again", [(), ("a",)], ids=["waits", "asks anew"])
async def test_ended_experiment_is_not_handed_out(federation: World, again: tuple[str, ...]) -> None:
    experiment_id = await running(federation)
    await hand_out(federation.db, "a")
    await end(federation.db, experiment_id, ExperimentState.CANCELLED)

    assert await hand_out(federation.db, "a", "b", again=again) == ({}, False)
    assert await rows(federation.db, STATES) == [("a", "released"), ("b", "released")]


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
    await change(federation.db, "UPDATE experiments SET state = 'failed', finished_at = submitted_at")

    assert await hand_out(federation.db, "a", again=("b",)) == ({}, False)

    assert await rows(federation.db, STATES) == [("a", "queued"), ("b", "queued")]


async def test_looking_for_something_to_hand_out_hands_out_nothing(federation: World) -> None:
    await running(federation)

    async with federation.db.read() as tx:
        assert await queues.anything_for(tx, ["a"], again=[])
        assert not await queues.anything_for(tx, ["stranger"], again=["stranger"])

    assert await rows(federation.db, STATES) == [("a", "queued"), ("b", "queued")]


async def test_experiment_is_handed_out_once_however_many_ask_for_its_envoy(federation: World) -> None:
    await running(federation)

    outcomes = await asyncio.gather(*(hand_out(federation.db, "a", "b") for _ in range(6)))

    given = [envoy for outcome, _ in outcomes for envoy in outcome]
    assert sorted(given) == ["a", "b"]
    assert await rows(federation.db, "SELECT attempt FROM collaborators") == [1, 1]


async def test_nobody_serves_two(federation: World) -> None:
    await running(federation, "first")
    second = (await federation.submit("second", envoys=("b",))).experiment.id
    await federation.admit()
    assert await rows(federation.db, STATES) == [("a", "queued"), ("b", "queued"), ("b", "waiting")]

    with pytest.raises(IntegrityError):
        async with federation.db.write("careless admission") as tx:
            await experiments.start(tx, second, eligible_at=await tx.now())
            await queues.enqueue(tx, second)

    assert await rows(federation.db, "SELECT state FROM experiments WHERE id = :id", id=second) == ["pending"]


async def test_envoy_whose_part_ended_is_free_for_the_next_experiment(federation: World) -> None:
    first = await running(federation, "first")
    second = (await federation.submit("second", envoys=("b",))).experiment.id
    await fail(federation.db, first, "b")

    await federation.admit()

    given, _ = await hand_out(federation.db, "b")
    assert given == {"b": Engagement(second, "second", 1)}


@only_postgresql
async def test_hand_out_passes_by_what_is_locked_and_says_so(federation: World) -> None:
    first = await running(federation, "first", envoys=("a",))
    second = await running(federation, "second", envoys=("b",))
    lock = "SELECT 1 FROM experiments WHERE id = :id FOR NO KEY UPDATE"
    async with holding(federation.db, lock, id=first):
        given, skipped = await asyncio.wait_for(hand_out(federation.db, "a", "b"), PATIENCE)

    assert (list(given), skipped) == (["b"], True)
    assert given["b"].experiment_id == second
    assert (await hand_out(federation.db, "a", "b"))[0].keys() == {"a"}


@only_postgresql
async def test_hand_out_keeps_others_from_the_experiment_until_it_has_committed(federation: World) -> None:
    experiment_id = await running(federation)
    async with federation.db.write("hand out") as tx:
        await queues.hand_out(tx, ["a"])
        cancelling = asyncio.create_task(end(federation.db, experiment_id, ExperimentState.CANCELLED))
        assert await waits(cancelling)

    await cancelling
    assert await rows(federation.db, STATES) == [("a", "released"), ("b", "released")]


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

    assert await rows(federation.db, STATES) == [("a", "working"), ("b", "queued")]


async def test_failure_frees_the_envoy_keeps_its_words_and_is_recorded_once(federation: World) -> None:
    experiment_id = await running(federation)
    hints: list[Hint] = []
    federation.db.on_commit = hints.extend

    assert await fail(federation.db, experiment_id, "a", "first")
    woken = list(hints)
    assert not await fail(federation.db, experiment_id, "a", "second")

    async with federation.db.read() as tx:
        found = await queues.of_experiment(tx, experiment_id)
    assert [(each.envoy, each.state, each.error) for each in found] == [
        ("a", CollaboratorState.FAILED, "first"),
        ("b", CollaboratorState.QUEUED, None),
    ]
    assert set(woken) == {("admission", 0), ("experiment", experiment_id), ("envoy", "a")}
    assert hints == woken


async def test_failure_closes_the_open_assignment_and_no_other(federation: World) -> None:
    fence = await owned(federation)
    await federation.drive(fence)
    given = {envoy: await federation.wait(envoy) for envoy in ("a", "b")}
    await federation.finish_round(given)
    await federation.drive(fence)

    async with federation.db.write("fail") as tx:
        await experiments.lock(tx, fence.experiment_id)
        await queues.fail_assignment(tx, fence.experiment_id, "a")

    states = "SELECT round, envoy, state FROM assignments ORDER BY round, envoy"
    assert await rows(federation.db, states) == [
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
    assert await rows(federation.db, STATES) == [("a", end), ("b", end), ("c", "failed"), ("d", "released")]
    assert await rows(federation.db, "SELECT count(*) FROM collaborators WHERE ended_at IS NULL") == [0]


async def test_admission_queues_only_who_waits(federation: World) -> None:
    experiment_id = await running(federation)
    await fail(federation.db, experiment_id, "a")

    async with federation.db.write("again") as tx:
        assert await queues.enqueue(tx, experiment_id) == []

    assert await rows(federation.db, STATES) == [("a", "failed"), ("b", "queued")]
