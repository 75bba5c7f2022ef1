"""An experiment's row: entered once, changed only from the states that allow it, ended for good."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from director.domain.types import ExperimentId, ExperimentState
from director.effects import ManualClock
from director.errors import AlreadyExists, ExperimentNotFound, ModelNotFound, Unavailable
from director.store import experiment_states, experiments, models
from director.store.engine.database import Database
from director.store.engine.topics import Topic
from tests.store.words import owned, running
from tests.tables import blob_rows, changes, event_rows, experiment_rows, result_rows
from tests.world import PLAN, World

S = ExperimentState
TERMINAL = [state for state in S if state.terminal]


async def end(db: Database, experiment_id: ExperimentId, state: S, reason: str | None = None) -> bool:
    async with db.write("end") as tx:
        await experiments.lock(tx, experiment_id)
        return await experiment_states.end(tx, experiment_id, state, reason=reason)


async def start(db: Database, experiment_id: ExperimentId) -> bool:
    async with db.write("start") as tx:
        found = await experiments.lock(tx, experiment_id)
        return await experiment_states.start(tx, experiment_id, eligible_at=found.eligible_at or found.submitted_at)


@pytest.fixture
async def pending(federation: World) -> ExperimentId:
    """A pending experiment."""
    await federation.register("a", "b")
    return (await federation.submit()).id


async def test_experiment_is_read_as_it_was_submitted(federation: World) -> None:
    await federation.register("a", "b")
    submitted = await federation.submit(users=("friend", "researcher"), priority=-2)

    async with federation.db.read() as tx:
        found = await experiments.get(tx, submitted.id)
        now = await tx.now()

    assert found == submitted
    assert (found.name, found.owner, found.state, found.priority) == ("experiment", "researcher", S.PENDING, -2)
    assert found.rank == found.submitted_at.timestamp() + 2 * 3600
    assert found.eligible_at == found.submitted_at <= now
    assert (found.fence, found.crashes, found.round, found.last_model) == (0, 0, 0, 0)
    assert await experiment_rows.users(federation.db) == ["friend"]


async def test_name_is_taken_until_the_experiment_is_removed(federation: World, pending: ExperimentId) -> None:
    with pytest.raises(AlreadyExists, match="pick another name"):
        await federation.submit(submission_id="another-one")

    await end(federation.db, pending, S.CANCELLED)
    with pytest.raises(AlreadyExists):
        await federation.submit(submission_id="another-one")
    async with federation.db.write("remove") as tx:
        await models.drop_all(tx, pending)
        assert await experiment_states.remove(tx, pending)
        assert not await experiments.name_taken(tx, "experiment")

    again = await federation.submit(submission_id="another-one")
    assert again.id != pending


async def test_submission_sent_many_times_at_once_is_one_experiment(federation: World) -> None:
    await federation.register("a", "b")

    outcomes = await asyncio.gather(*(federation.submit() for _ in range(5)), return_exceptions=True)

    assert all(not isinstance(outcome, BaseException) or isinstance(outcome, Unavailable) for outcome in outcomes)
    again = await federation.submit()
    assert await experiment_rows.ids(federation.db) == [again.id]
    assert (await blob_rows.states(federation.db)).count("taken") == 2


async def test_two_submissions_of_one_name_at_once_are_one_experiment(federation: World) -> None:
    await federation.register("a", "b")

    outcomes = await asyncio.gather(
        *(federation.submit(submission_id=f"submission-{number}") for number in range(4)), return_exceptions=True
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 3
    assert {type(each) for each in refused} == {AlreadyExists}
    assert len(await experiment_rows.ids(federation.db)) == 1


async def test_what_was_read_in_a_transaction_that_was_rolled_back_is_forgotten(
    federation: World, pending: ExperimentId
) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        async with federation.db.write("submit") as tx:
            ghost = await changes.clone(tx, pending, "ghost")
            assert (await experiments.get(tx, ghost)).plan.rounds == 2
            raise ValueError("on purpose")

    other = await federation.submit("other", plan=PLAN.replace("rounds: 2", "rounds: 3"))
    assert other.plan.rounds == 3


async def test_experiment_is_seen_by_its_owner_those_it_is_shared_with_and_operators(federation: World) -> None:
    await federation.register("a", "b")
    shared = await federation.submit("shared", users=("friend",))
    own = await federation.submit("own")

    async def seen(caller: str | None) -> list[str]:
        async with federation.db.read() as tx:
            found = await experiments.listed(tx, caller=caller, before=None, limit=10)
            named = await experiments.identities(tx, [shared.id, own.id], caller=caller)
        assert named == {number: (each.uid, each.name) for number, each in found}
        return [each.name for _, each in found]

    assert await seen("researcher") == await seen(None) == ["own", "shared"]
    assert await seen("friend") == ["shared"]
    assert await seen("stranger") == []
    async with federation.db.read() as tx:
        assert (await experiments.find(tx, "shared", caller="friend")).id == shared.id
        for which, caller in (("own", "friend"), (own.uid, "friend"), ("shared", "stranger"), ("none", None)):
            with pytest.raises(ExperimentNotFound):
                await experiments.find(tx, which, caller=caller)


async def test_list_is_read_in_pages_newest_first(federation: World, pending: ExperimentId) -> None:
    ids = [pending] + [await changes.clone(federation.db, pending, f"clone {number}") for number in range(4)]

    async with federation.db.read() as tx:
        first = await experiments.listed(tx, caller=None, before=None, limit=3)
        second = await experiments.listed(tx, caller=None, before=first[-1][0], limit=3)

    assert [number for number, _ in (*first, *second)] == ids[::-1]


async def test_experiment_starts_once(timed: World, clock: ManualClock) -> None:
    await timed.register("a", "b")
    pending = (await timed.submit()).id
    clock.advance(timedelta(seconds=3))

    outcomes = await asyncio.gather(*(start(timed.db, pending) for _ in range(3)))

    assert sorted(outcomes) == [False, False, True]
    assert await experiment_rows.lengths(timed.db) == [(3.0, None)]


async def test_experiment_that_waits_for_a_review_does_not_start(federation: World) -> None:
    await federation.register("a", "b")
    waiting = await federation.submit(plan=f"{PLAN}\nreview: manual")
    assert waiting.eligible_at is None
    assert not await start(federation.db, waiting.id)

    async with federation.db.write("approve") as tx:
        assert await experiment_states.approve(tx, waiting.id, priority=1)
        assert not await experiment_states.approve(tx, waiting.id, priority=1)

    async with federation.db.read() as tx:
        approved = await experiments.get(tx, waiting.id)
    assert approved.eligible_at is not None
    assert approved.rank == approved.eligible_at.timestamp() - 3600
    assert await start(federation.db, waiting.id)


async def test_experiment_that_runs_or_ended_is_not_approved(federation: World) -> None:
    experiment_id = await running(federation)
    await changes.make_ineligible(federation.db)

    async with federation.db.write("approve") as tx:
        assert not await experiment_states.approve(tx, experiment_id, priority=0)


@pytest.mark.parametrize("first", TERMINAL, ids=lambda state: state.value)
async def test_terminal_is_terminal(federation: World, pending: ExperimentId, first: S) -> None:
    if first is S.FINISHED:
        await start(federation.db, pending)
    assert await end(federation.db, pending, first, "the first reason")

    for second in TERMINAL:
        assert not await end(federation.db, pending, second, "another reason")
    assert not await start(federation.db, pending)

    assert await experiment_rows.outcomes(federation.db) == [(first, "the first reason")]
    assert await experiment_rows.fences(federation.db) == [1]


@pytest.mark.parametrize(
    ("running", "state"), [(False, S.FINISHED), (True, S.REJECTED)], ids=["pending", "in progress"]
)
async def test_experiment_does_not_end_in_a_state_that_cannot_follow(
    federation: World, pending: ExperimentId, running: bool, state: S
) -> None:
    if running:
        await start(federation.db, pending)

    assert not await end(federation.db, pending, state)


async def test_ended_experiment_keeps_how_long_it_ran(timed: World, clock: ManualClock) -> None:
    fence = await owned(timed)
    clock.advance(timedelta(minutes=1))

    await end(timed.db, fence.experiment_id, S.FAILED)

    assert await experiment_rows.lengths(timed.db) == [(0.0, 60.0)]


async def test_ended_experiment_wakes_those_who_wait_for_it(federation: World, pending: ExperimentId) -> None:
    topics: list[object] = []
    federation.db.on_commit = topics.extend

    await end(federation.db, pending, S.CANCELLED)

    assert {*topics} == {Topic.experiment(pending), Topic.admission()}


async def test_experiment_is_removed_once_it_has_ended_and_keeps_its_history(
    federation: World, pending: ExperimentId
) -> None:
    async def remove() -> bool:
        async with federation.db.write("remove") as tx:
            await experiments.lock(tx, pending)
            return await experiment_states.remove(tx, pending)

    assert not await remove()
    await end(federation.db, pending, S.CANCELLED)
    assert await remove()
    assert not await remove()

    assert await experiment_rows.states(federation.db) == ["cancelled"]
    assert await experiment_rows.archives(federation.db) == [None]
    assert await event_rows.of(federation.db, pending)
    async with federation.db.read() as tx:
        assert await experiments.listed(tx, caller=None, before=None, limit=10) == []
        assert (await experiments.get(tx, pending)).removed_at is not None
        with pytest.raises(ExperimentNotFound):
            await experiments.find(tx, "experiment", caller=None)


async def test_models_of_a_removed_experiment_are_dropped(federation: World, pending: ExperimentId) -> None:
    async with federation.db.write("remove") as tx:
        model = await models.get(tx, pending, 0)
        await models.drop_all(tx, pending)

    assert await result_rows.model_digests(federation.db) == [(0, model.digest)]
    assert await result_rows.model_blobs(federation.db) == [None]
    assert await blob_rows.state(federation.db, model.blob.id) == "complete"
    async with federation.db.read() as tx:
        with pytest.raises(ModelNotFound, match="no longer kept"):
            await models.get(tx, pending, 0)
        with pytest.raises(ModelNotFound, match="no model 1"):
            await models.get(tx, pending, 1)


async def test_unknown_experiment_can_be_neither_read_nor_locked(db: Database) -> None:
    async with db.write("lock") as tx:
        with pytest.raises(ExperimentNotFound):
            await experiments.get(tx, ExperimentId(1))
        with pytest.raises(ExperimentNotFound):
            await experiments.lock(tx, ExperimentId(1))


@pytest.mark.parametrize("wrong", changes.FORBIDDEN)
async def test_row_that_breaks_an_invariant_is_refused(federation: World, pending: ExperimentId, wrong: str) -> None:
    with pytest.raises(IntegrityError):
        await changes.break_experiments(federation.db, wrong)
