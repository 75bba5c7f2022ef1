"""Cancelling and removing, in whatever state an experiment is."""

import asyncio

import pytest

from director.domain.types import ExperimentState
from director.domain.work import Quit
from director.errors import AlreadyExists, ExperimentNotFound, LeaseLost, PreconditionFailed
from director.services.runtime import Caller
from tests.services.words import (
    OPERATOR,
    collecting,
    complete,
    fail,
    finished,
    history,
    reason_of,
    state_of,
    train,
)
from tests.store.words import only_postgresql, owned, running, waits
from tests.tables import blob_rows, event_rows, experiment_rows, locks, result_rows, round_rows
from tests.tables.everything import bytes_held, contents, metrics, row_counts
from tests.world import PLAN, RESEARCHER, World

MANUAL = PLAN + "review: manual\n"


async def one_of_each(federation: World) -> list[str]:
    """Have an experiment in each of the states it can be in, each with envoys of its own."""
    process = federation.process
    await federation.register("a", "b")
    await federation.submit("waits for its review", plan=MANUAL)
    await federation.submit("rejected", plan=MANUAL)
    await process.experiments.review("rejected", OPERATOR, approve=False)
    await owned(federation, "waits for its first round", ("e", "f"))
    await collecting(federation, "collecting", ("g", "h"))
    frozen = await collecting(federation, "aggregating", ("i", "j"))
    await complete(federation, frozen, "i", "j")
    await federation.steps(frozen.fence).next()
    failed = await collecting(federation, "failed", ("k", "l"))
    await fail(federation, "k", failed.uid)
    await federation.drive(failed.fence)
    await finished(federation, "finished", ("m", "n"))
    await running(federation, "waits for an owner", ("c", "d"))
    await federation.submit("pending", envoys=("a", "g"))
    await federation.submit("cancelled")
    await process.experiments.cancel("cancelled", RESEARCHER, reason="a typing error")
    return await experiment_rows.names(federation.db)


async def test_whatever_has_not_ended_can_be_cancelled_and_nothing_else(federation: World) -> None:
    ended = {"rejected", "failed", "finished"}
    names = await one_of_each(federation)

    for name in names:
        before, was = await contents(federation.db), await state_of(federation, name)
        if name in ended:
            with pytest.raises(PreconditionFailed, match=f"has ended already: it is {was}"):
                await federation.process.experiments.cancel(name, RESEARCHER)
        else:
            view = await federation.process.experiments.cancel(name, RESEARCHER)
            assert view.state is ExperimentState.CANCELLED
        if name in ended or was is ExperimentState.CANCELLED:
            assert await contents(federation.db) == before

    assert await round_rows.collaborators_not_ended(federation.db) == []
    assert await round_rows.not_closed(federation.db) == []
    assert await round_rows.open_assignments(federation.db) == []
    assert await result_rows.updates_held(federation.db) == []
    assert await experiment_rows.owned(federation.db) == []


async def test_whatever_there_is_can_be_removed_and_leaves_no_bytes_but_its_history(federation: World) -> None:
    names = await one_of_each(federation)
    before = await contents(federation.db)

    for name in names:
        await federation.process.experiments.remove(name, RESEARCHER)
        with pytest.raises(ExperimentNotFound):
            await federation.process.experiments.get(name, RESEARCHER)
        with pytest.raises(ExperimentNotFound):
            await federation.process.experiments.remove(name, RESEARCHER)
    await federation.process.periodic_jobs.sweep()

    assert await bytes_held(federation.db) == []
    after = await contents(federation.db)
    assert row_counts(after) == row_counts(before)
    assert metrics(after) == metrics(before)
    assert await experiment_rows.not_ended(federation.db) == []
    assert len(await event_rows.of_kind(federation.db, "experiment_removed")) == len(names)


async def test_cancelled_experiment_says_by_whom_or_why(federation: World) -> None:
    await federation.register("a", "b")
    for name, reason in [("one", ""), ("two", "the wrong data")]:
        view = await federation.submit(name)
        await federation.process.experiments.cancel(name, RESEARCHER, reason=reason)
        [*_, event] = await history(federation, view.id)
        assert (event.kind, event.actor) == ("experiment_cancelled", "researcher")
        assert event.reason == await reason_of(federation, name)

    assert await reason_of(federation, "one") == "cancelled by researcher"
    assert await reason_of(federation, "two") == "the wrong data"


async def test_cancelling_frees_the_envoys_for_the_next_experiment(federation: World) -> None:
    begun = await collecting(federation)
    await federation.submit("next")

    await federation.process.experiments.cancel("experiment", RESEARCHER)
    await federation.admit()

    assert await state_of(federation, "next") is ExperimentState.IN_PROGRESS
    told = await federation.process.rounds.poll_tasks(begun.uid, "b", begun.given["b"].attempt, seconds=0)
    assert told == Quit("cancelled")


async def test_owner_learns_at_its_next_step_that_its_experiment_was_cancelled(federation: World) -> None:
    begun = await collecting(federation)
    await complete(federation, begun, "a", "b")
    steps = federation.steps(begun.fence)
    await steps.next()

    await federation.process.experiments.remove("experiment", RESEARCHER)

    with pytest.raises(LeaseLost):
        await steps.next()
    assert await round_rows.states(federation.db, begun.id) == ["abandoned"]


async def test_experiment_ends_once_if_a_cancellation_and_the_last_step_come_together(federation: World) -> None:
    begun = await collecting(federation)
    for number in (1, 2, 3):
        await federation.finish_round(begun.given, value=number)
        if number < 3:
            await federation.drive(begun.fence)

    cancelling = federation.process.experiments.cancel("experiment", RESEARCHER)
    outcomes = await asyncio.gather(cancelling, federation.drive(begun.fence), return_exceptions=True)

    found = await state_of(federation)
    assert found in (ExperimentState.FINISHED, ExperimentState.CANCELLED)
    assert isinstance(outcomes[0 if found is ExperimentState.FINISHED else 1], PreconditionFailed | LeaseLost)
    ends = [event.kind for event in await history(federation, begun.id) if event.kind.startswith("experiment_")]
    assert ends.count(f"experiment_{found}") == 1
    assert ends[-1] == f"experiment_{found}"


@only_postgresql
async def test_cancellations_that_wait_for_each_other_are_one_and_both_are_told_so(federation: World) -> None:
    experiment_id = await running(federation)
    experiments = federation.process.experiments
    async with locks.experiment(federation.db, experiment_id):
        both = [asyncio.create_task(experiments.cancel("experiment", RESEARCHER)) for _ in range(2)]
        assert all([await waits(each) for each in both])

    views = await asyncio.gather(*both)

    assert [view.state for view in views] == [ExperimentState.CANCELLED] * 2
    kinds = [event.kind for event in await history(federation, experiment_id)]
    assert kinds.count("experiment_cancelled") == 1


@only_postgresql
async def test_removals_that_wait_for_each_other_are_one(federation: World) -> None:
    experiment_id = await running(federation)
    experiments = federation.process.experiments
    async with locks.experiment(federation.db, experiment_id):
        both = [asyncio.create_task(experiments.remove("experiment", RESEARCHER)) for _ in range(2)]
        assert all([await waits(each) for each in both])

    await asyncio.gather(*both)

    kinds = [event.kind for event in await history(federation, experiment_id)]
    assert (kinds.count("experiment_cancelled"), kinds.count("experiment_removed")) == (1, 1)


async def test_updates_are_gone_once_their_round_has_ended_and_their_digests_stay(federation: World) -> None:
    begun = await collecting(federation)
    stored = await train(federation, begun, "a")

    await federation.process.experiments.cancel("experiment", RESEARCHER)
    await federation.process.periodic_jobs.sweep()

    [found] = await result_rows.contributions(federation.db)
    assert (found.digest, found.blob) == (stored.digest, None)
    # The archive and the initial model.
    assert len(await blob_rows.ids(federation.db)) == 2


async def test_name_of_a_removed_experiment_is_free_and_its_submission_id_is_not(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit(submission_id="the-first", users=["colleague"])
    await federation.process.experiments.remove("experiment", RESEARCHER)

    with pytest.raises(AlreadyExists, match="was removed; take a new id"):
        await federation.submit(submission_id="the-first")
    view = await federation.submit(submission_id="the-second")

    assert view.state is ExperimentState.PENDING
    with pytest.raises(ExperimentNotFound):
        await federation.process.experiments.get("experiment", Caller("colleague"))


async def test_removed_experiment_is_in_nobodys_list(federation: World) -> None:
    await federation.register("a", "b")
    await federation.submit("one")
    await federation.submit("two", users=["colleague"])

    await federation.process.experiments.remove("two", RESEARCHER)

    for caller, names in [(RESEARCHER, ["one"]), (Caller("colleague"), []), (OPERATOR, ["one"])]:
        found = await federation.process.experiments.listed(caller)
        assert [each.name for each in found.items] == names
