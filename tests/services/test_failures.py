"""What an envoy's report of a failure does, to its experiment and to itself."""

import pytest

from director.domain.experiment import Failure
from director.domain.types import ExperimentState
from director.domain.work import Quit, Work
from director.errors import NotFound, RoundClosed
from tests.services.words import (
    collecting,
    complete,
    fail,
    finished,
    history,
    reason_of,
    state_of,
    train,
    validate,
)
from tests.tables import result_rows, round_rows
from tests.tables.everything import contents
from tests.world import PLAN, RESEARCHER, World

RELAXED = PLAN + "min_collaborators: 1\n"


async def test_failure_that_leaves_too_few_fails_the_experiment_at_once_in_the_envoys_words(
    federation: World,
) -> None:
    begun = await collecting(federation)
    await validate(federation, begun, "a")

    await fail(federation, "b", begun.uid)
    await federation.drive(begun.fence)

    assert await state_of(federation) is ExperimentState.FAILED
    assert await reason_of(federation) == (
        "round 1 cannot reach its minimum of 2 collaborators; b failed: CUDA out of memory"
    )
    assert await round_rows.collaborator_states(federation.db, begun.id) == ["released", "failed"]
    assert await round_rows.assignment_states(federation.db, begun.id) == ["missed", "failed"]
    assert await round_rows.states(federation.db, begun.id) == ["abandoned"]
    assert [each.value for each in await result_rows.metrics(federation.db) if each.origin == "a"] == [0.5]
    told = await federation.process.rounds.poll_tasks(begun.uid, "a", begun.given["a"].attempt, seconds=0)
    assert told == Quit("failed")


async def test_envoy_that_failed_is_free_for_others_and_is_not_asked_again(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await federation.submit("another", envoys=("b",))

    await fail(federation, "b", begun.uid)
    await federation.admit()
    await complete(federation, begun, "a")
    await federation.drive(begun.fence)

    assert await state_of(federation, "another") is ExperimentState.IN_PROGRESS
    assert (await federation.wait("b")).experiment_name == "another"
    assert [envoy for envoy, _ in await round_rows.assignments(federation.db, 2)] == ["a"]
    told = await federation.process.rounds.poll_tasks(begun.uid, "b", begun.given["b"].attempt, seconds=0)
    assert told == Quit("CUDA out of memory")


async def test_what_was_complete_before_a_failure_counts(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await complete(federation, begun, "a", "b")

    await fail(federation, "a", begun.uid)
    assert await round_rows.assignment_states(federation.db, begun.id) == ["asked", "asked"]
    await federation.steps(begun.fence).next()

    assert await round_rows.assignment_states(federation.db, begun.id) == ["counted", "counted"]


async def test_half_of_the_work_of_an_envoy_that_failed_does_not_count(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await train(federation, begun, "a")
    await complete(federation, begun, "b")

    await fail(federation, "a", begun.uid)
    await federation.steps(begun.fence).next()

    assert await round_rows.assignment_states(federation.db, begun.id) == ["failed", "counted"]


async def test_result_of_an_envoy_that_has_failed_is_late_and_does_not_count(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await train(federation, begun, "a")
    await fail(federation, "a", begun.uid)

    with pytest.raises(RoundClosed, match="the assignment of envoy 'a' in round 1 is failed"):
        await validate(federation, begun, "a")
    await complete(federation, begun, "b")
    await federation.steps(begun.fence).next()

    assert await round_rows.assignment_states(federation.db, begun.id) == ["failed", "counted"]


async def test_failure_reported_twice_is_one_failure(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)
    await fail(federation, "a", begun.uid)
    before = await contents(federation.db)

    await fail(federation, "a", begun.uid, "again")

    assert await contents(federation.db) == before
    assert [event.reason for event in await history(federation, begun.id) if event.kind == "collaborator_failed"] == [
        "CUDA out of memory"
    ]


async def test_failure_after_the_end_changes_nothing(federation: World) -> None:
    await finished(federation)
    ended = await federation.row("experiment")
    before = await contents(federation.db)

    await fail(federation, "a", ended.uid)

    assert await contents(federation.db) == before


async def test_only_those_who_were_given_the_experiment_can_fail_in_it(federation: World) -> None:
    begun = await collecting(federation)
    await federation.register("c")
    pending = await federation.submit("pending")
    before = await contents(federation.db)

    for envoy, uid in [("c", begun.uid), ("a", pending.uid), ("a", "0" * 32)]:
        with pytest.raises(NotFound):
            await fail(federation, envoy, uid)

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

    await fail(federation, "a", begun.uid, error)

    assert await round_rows.errors(federation.db) == [kept]


async def test_task_error_and_message_are_stored_apart_and_told_in_one_sentence(federation: World) -> None:
    begun = await collecting(federation)

    await fail(federation, "b", begun.uid, "no memory left", task="train", error_type="MemoryError")
    await federation.drive(begun.fence)

    page = await federation.process.experiments.collaborators(begun.uid, RESEARCHER)
    assert [each.failure for each in page.items] == [None, Failure("no memory left", "train", "MemoryError")]
    sentence = "task 'train' failed: MemoryError: no memory left"
    [failed] = [event for event in await history(federation, begun.id) if event.kind == "collaborator_failed"]
    assert (failed.actor, failed.reason) == ("b", sentence)
    assert failed.details == {"envoy": "b", "task": "train", "error_type": "MemoryError"}
    assert (await reason_of(federation)).endswith(f"; b failed: {sentence}")


async def test_names_of_task_and_error_are_cut_and_cleaned_as_the_message_is(federation: World) -> None:
    begun = await collecting(federation)

    await fail(federation, "a", begun.uid, task="t\0" + "x" * 300, error_type="e\ud800" + "y" * 300)

    page = await federation.process.experiments.collaborators(begun.uid, RESEARCHER)
    failure = page.items[0].failure
    assert failure is not None
    assert failure.task == "t\ufffd" + "x" * 253
    assert failure.error_type == "e\ufffd" + "y" * 253


async def test_reason_of_an_experiment_quotes_the_end_of_a_long_message(federation: World) -> None:
    begun = await collecting(federation)

    await fail(federation, "b", begun.uid, "x" * 70_000 + "the last line")
    await federation.drive(begun.fence)

    reason = await reason_of(federation)
    assert reason.endswith("the last line")
    assert len(reason) < 1200


async def test_round_goes_on_with_those_it_can_do_with(federation: World) -> None:
    begun = await collecting(federation, plan=RELAXED)

    await fail(federation, "b", begun.uid)
    await federation.drive(begun.fence)

    assert isinstance(
        await federation.process.rounds.poll_tasks(begun.uid, "a", begun.given["a"].attempt, seconds=0), Work
    )
