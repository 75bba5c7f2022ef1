"""What an envoy's report of a failure does, to its experiment and to itself."""

import pytest

from director.domain.types import ExperimentState
from director.errors import NotFound, RoundClosed
from director.services.round_use_cases import Quit, Work
from tests.services.words import (
    collecting,
    complete,
    finished,
    history,
    reason_of,
    state_of,
    states,
    train,
    validate,
)
from tests.store.words import one
from tests.world import PLAN, World, contents

RELAXED = PLAN + "min_collaborators: 1\n"


async def report(federation: World, envoy: str, experiment_id: int, error: str = "CUDA out of memory") -> None:
    await federation.process.envoys.report_failure(envoy, experiment_id, attempt=None, error=error)


async def test_failure_that_leaves_too_few_fails_the_experiment_at_once_in_the_envoys_words(
    federation: World,
) -> None:
    begun = await collecting(federation)
    await validate(federation, begun, "a")

    await report(federation, "b", begun.id)
    await federation.drive(begun.fence)

    assert await state_of(federation) is ExperimentState.FAILED
    assert await reason_of(federation) == (
        "round 1 cannot reach its minimum of 2 collaborators; b failed: CUDA out of memory"
    )
    assert await states(federation, "collaborators", begun.id) == ["released", "failed"]
    assert await states(federation, "assignments", begun.id) == ["missed", "failed"]
    assert await states(federation, "rounds", begun.id) == ["abandoned"]
    assert await one(federation.db, "SELECT value FROM metrics WHERE origin = 'a'") == 0.5
    told = await federation.process.rounds.get_tasks(begun.id, "a", begun.given["a"].attempt, seconds=0)
    assert told == Quit("failed")


async def test_envoy_that_failed_is_free_for_others_and_is_not_asked_again(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await federation.submit("another", envoys=("b",))

    await report(federation, "b", begun.id)
    await federation.admit()
    await complete(federation, begun, "a")
    await federation.drive(begun.fence)

    assert await state_of(federation, "another") is ExperimentState.IN_PROGRESS
    assert (await federation.wait("b")).experiment_name == "another"
    assert await one(federation.db, "SELECT envoy FROM assignments WHERE round = 2") == "a"
    told = await federation.process.rounds.get_tasks(begun.id, "b", begun.given["b"].attempt, seconds=0)
    assert told == Quit("CUDA out of memory")


async def test_what_was_complete_before_a_failure_counts(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await complete(federation, begun, "a", "b")

    await report(federation, "a", begun.id)
    assert await states(federation, "assignments", begun.id) == ["asked", "asked"]
    await federation.steps(begun.fence).next()

    assert await states(federation, "assignments", begun.id) == ["counted", "counted"]


async def test_half_of_the_work_of_an_envoy_that_failed_does_not_count(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await train(federation, begun, "a")
    await complete(federation, begun, "b")

    await report(federation, "a", begun.id)
    await federation.steps(begun.fence).next()

    assert await states(federation, "assignments", begun.id) == ["failed", "counted"]


async def test_result_of_an_envoy_that_has_failed_is_late_and_does_not_count(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await train(federation, begun, "a")
    await report(federation, "a", begun.id)

    with pytest.raises(RoundClosed, match="the assignment of envoy 'a' in round 1 is failed"):
        await validate(federation, begun, "a")
    await complete(federation, begun, "b")
    await federation.steps(begun.fence).next()

    assert await states(federation, "assignments", begun.id) == ["failed", "counted"]


async def test_failure_reported_twice_is_one_failure(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await report(federation, "a", begun.id)
    before = await contents(federation.db)

    await report(federation, "a", begun.id, "again")

    assert await contents(federation.db) == before
    assert [event.reason for event in await history(federation, begun.id) if event.kind == "collaborator_failed"] == [
        "CUDA out of memory"
    ]


async def test_failure_after_the_end_changes_nothing(federation: World) -> None:
    experiment_id = await finished(federation)
    before = await contents(federation.db)

    await report(federation, "a", experiment_id)

    assert await contents(federation.db) == before


async def test_only_those_who_were_given_the_experiment_can_fail_in_it(federation: World) -> None:
    begun = await collecting(federation)
    await federation.register("c")
    await federation.submit("pending")
    before = await contents(federation.db)

    for envoy, experiment_id in [("c", begun.id), ("a", begun.id + 1), ("a", 99)]:
        with pytest.raises(NotFound):
            await report(federation, envoy, experiment_id)

    assert await contents(federation.db) == before


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        ("", "no reason given"),
        (" \n", "no reason given"),
        ("bytes \0 and \ud800", "bytes \ufffd and \ufffd"),
        ("x" * 70_000 + "the last line", "x" * (65_536 - 13) + "the last line"),
    ],
    ids=["empty", "blank", "unstorable", "long"],
)
async def test_whatever_a_traceback_holds_it_is_kept(federation: World, error: str, kept: str) -> None:
    begun = await collecting(federation)

    await report(federation, "a", begun.id, error)

    assert await one(federation.db, "SELECT error FROM collaborators WHERE state = 'failed'") == kept


async def test_round_goes_on_with_those_it_can_do_with(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)

    await report(federation, "b", begun.id)
    await federation.drive(begun.fence)

    assert isinstance(
        await federation.process.rounds.get_tasks(begun.id, "a", begun.given["a"].attempt, seconds=0), Work
    )
