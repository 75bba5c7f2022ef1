"""When a round ends, lived through: targets, cutoffs, deadlines and grace are counted in service time alone."""

from datetime import timedelta

import pytest

from director.domain.types import ExperimentState
from director.effects import ManualClock
from director.errors import RoundClosed
from director.store import clock as clocks
from director.store.leases import Fence
from tests.services.words import (
    Collecting,
    collecting,
    complete,
    history,
    reason_of,
    state_of,
    train,
    validate,
)
from tests.store.words import live, owned
from tests.tables import blob_rows, experiment_rows, result_rows, round_rows
from tests.world import PLAN, RESEARCHER, World

ENVOYS = ("a", "b", "c", "d")


async def round_of(federation: World, fence: Fence) -> int:
    """Drive an experiment as far as it goes; return the round that is open then."""
    await federation.drive(fence)
    [number] = await experiment_rows.current_rounds(federation.db)
    return number


async def test_round_ends_at_its_share_and_who_comes_later_is_told_so_and_keeps_no_bytes(federation: World) -> None:
    begun = await collecting(federation, envoys=ENVOYS, plan=PLAN + "percentage: 0.5\n")
    await complete(federation, begun, "a")
    assert await round_of(federation, begun.fence) == 1
    await federation.work(begun.given["d"], "d")
    await complete(federation, begun, "b")
    assert await round_of(federation, begun.fence) == 2
    kept = await blob_rows.ids(federation.db)

    with pytest.raises(RoundClosed, match="LATE: round 1 is closed"):
        await train(federation, begun, "d")

    assert await blob_rows.ids(federation.db) == kept
    assert await blob_rows.uploads_left(federation.db) == []
    [*_, late] = await history(federation, begun.id)
    assert (late.kind, late.actor, late.details) == ("contribution_late", "d", {"round": 1, "task": "train"})
    assert await round_rows.assignments(federation.db, 1) == [
        ("a", "counted"),
        ("b", "counted"),
        ("c", "missed"),
        ("d", "missed"),
    ]


async def test_update_that_arrives_while_its_round_ends_is_late_and_its_bytes_go(federation: World) -> None:
    begun = await collecting(federation, plan=PLAN + "percentage: 0.5\n")
    await validate(federation, begun, "a")
    await federation.work(begun.given["b"], "b")
    await validate(federation, begun, "b")
    await train(federation, begun, "b")
    await federation.steps(begun.fence).next()

    with pytest.raises(RoundClosed, match="LATE: round 1 is aggregating"):
        await train(federation, begun, "a")

    assert await blob_rows.uploads_left(federation.db) == []
    assert [envoy for envoy, task in await result_rows.contributed(federation.db) if task == "train"] == ["b"]
    measured = await result_rows.metrics(federation.db)
    assert [each.origin for each in measured if each.name == "accuracy"] == ["a", "b"]


async def test_cutoff_counts_from_the_first_tasks_given(timed: World, clock: ManualClock) -> None:
    begun = await begun_without_tasks(timed, "cutoff: 60\n")
    await live(timed, clock, 100)
    assert await round_of(timed, begun.fence) == 1
    await complete(timed, begun, "a")

    await live(timed, clock, 50)
    assert await round_of(timed, begun.fence) == 1
    await live(timed, clock, 11)
    assert await round_of(timed, begun.fence) == 2


async def begun_without_tasks(timed: World, keys: str) -> Collecting:
    """Start an experiment whose envoys have not asked for tasks yet."""
    await timed.register("a", "b")
    view = await timed.submit(plan=PLAN + keys)
    await timed.admit()
    [fence] = await timed.claim()
    await timed.drive(fence)
    given = {envoy: await timed.wait(envoy) for envoy in ("a", "b")}
    return Collecting(view.id, view.uid, fence, given)


async def test_deadline_counts_from_the_opening_and_fails_what_is_below_its_minimum(
    timed: World, clock: ManualClock
) -> None:
    begun = await begun_without_tasks(timed, "round_deadline: 60\n")
    await complete(timed, begun, "a")

    await live(timed, clock, 59)
    assert await timed.drive(begun.fence) == pytest.approx(1.0)
    await live(timed, clock, 1)
    assert await timed.drive(begun.fence) is None

    assert await state_of(timed) is ExperimentState.FAILED
    assert await reason_of(timed) == (
        "round 1 reached its deadline with 1 of at least 2 collaborators done; still waiting for b"
    )


async def test_round_that_is_to_wait_ends_once_its_minimum_holds(timed: World, clock: ManualClock) -> None:
    begun = await begun_without_tasks(timed, "round_deadline: 60\non_deadline: wait\n")
    await complete(timed, begun, "a")
    await live(timed, clock, 120)
    assert await round_of(timed, begun.fence) == 1

    await complete(timed, begun, "b")

    assert await round_of(timed, begun.fence) == 2
    assert await round_rows.assignments(timed.db, 1) == [("a", "counted"), ("b", "counted")]


async def test_silent_envoy_is_waited_for_during_its_grace_and_can_come_back_after_it(
    timed: World, clock: ManualClock
) -> None:
    begun = await begun_without_tasks(timed, "min_collaborators: 1\nenvoy_grace: 60\n")
    await live(timed, clock, 61)
    await timed.register("a")
    assert await round_of(timed, begun.fence) == 1

    await complete(timed, begun, "b")
    assert await round_of(timed, begun.fence) == 1
    await complete(timed, begun, "a")
    assert await round_of(timed, begun.fence) == 2

    assert await round_rows.assignments(timed.db, 1) == [("a", "counted"), ("b", "counted")]


async def test_round_goes_on_without_an_envoy_that_is_silent_for_longer_than_its_grace(
    timed: World, clock: ManualClock
) -> None:
    begun = await begun_without_tasks(timed, "min_collaborators: 1\nenvoy_grace: 60\n")
    await complete(timed, begun, "a")
    await live(timed, clock, 59)
    await timed.register("a")
    assert await timed.drive(begun.fence) == pytest.approx(1.0)

    await live(timed, clock, 2)

    assert await round_of(timed, begun.fence) == 2
    assert await round_rows.assignment_states(timed.db, begun.id) == ["counted", "asked", "missed", "asked"]


async def test_outage_runs_no_deadline_and_makes_nobody_absent(timed: World, clock: ManualClock) -> None:
    begun = await begun_without_tasks(timed, "min_collaborators: 1\nenvoy_grace: 60\nround_deadline: 10m\n")
    await complete(timed, begun, "a")

    clock.advance(timedelta(days=2))

    assert await round_of(timed, begun.fence) == 1
    assert [envoy.online for envoy in (await timed.process.federation.envoys(RESEARCHER)).items] == [True, True]


async def test_first_step_after_an_outage_accounts_for_it_and_does_nothing_else(
    timed: World, clock: ManualClock
) -> None:
    steps = timed.steps(await owned(timed))
    clock.advance(timedelta(hours=1))

    assert await steps.next() == 0.0

    async with timed.db.read() as tx:
        assert not (await clocks.read(tx)).stale
    assert await round_rows.numbers(timed.db) == []


async def test_step_is_not_taken_where_an_outage_came_after_its_choice_until_that_is_accounted_for(
    timed: World, clock: ManualClock
) -> None:
    steps = timed.steps(await owned(timed))
    clock.advance(timedelta(hours=1))

    await steps._open()
    assert await round_rows.numbers(timed.db) == []

    await timed.process.ticker.tick()
    await steps._open()
    assert await round_rows.numbers(timed.db) == [1]


async def test_pending_experiment_fails_when_its_quorum_has_stayed_away_past_its_start_deadline(
    timed: World, clock: ManualClock
) -> None:
    await timed.register("a", "b")
    await live(timed, clock, 121)
    await timed.submit(plan=PLAN + "start_deadline: 60\n")
    await live(timed, clock, 59)
    await timed.admit()
    assert await state_of(timed) is ExperimentState.PENDING

    await live(timed, clock, 2)
    await timed.admit()

    assert await state_of(timed) is ExperimentState.FAILED
    assert await reason_of(timed) == ("not started within its start deadline: a, b stayed away for more than 60 s")


async def test_final_validation_ends_at_its_deadline_with_those_that_have_measured(
    timed: World, clock: ManualClock
) -> None:
    begun = await begun_without_tasks(timed, "round_deadline: 60\n")
    for number in (1, 2):
        await complete(timed, begun, "a", "b", round_number=number)
        await timed.drive(begun.fence)
    await timed.work(begun.given["a"], "a")
    await validate(timed, begun, "a", round_number=3)

    await live(timed, clock, 61)
    assert await timed.drive(begun.fence) is None

    assert await state_of(timed) is ExperimentState.FINISHED
    assert await round_rows.assignments(timed.db, 3) == [("a", "counted"), ("b", "missed")]
    assert await round_rows.collaborator_states(timed.db, begun.id) == ["done", "done"]
