import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from director.domain import plan as plans
from director.domain.experiment import BRIEF, Failure
from director.domain.limits import MAX_LISTED
from director.domain.steps import (
    Close,
    Fail,
    Finish,
    Freeze,
    Leave,
    Member,
    Open,
    OpenRound,
    Quorum,
    Review,
    Snapshot,
    Wait,
    next_step,
    quorum,
)
from director.domain.types import AssignmentState, CollaboratorState, ExperimentState, RoundKind, RoundState

TRAIN = {"name": "train", "kind": "train", "function": "work:train"}
VALIDATE = {"name": "validate", "kind": "validate", "function": "work:validate"}
DEADLINE = 1000.0
GRACE = 300.0
"""The default of `envoy_grace`, in seconds."""


def a_plan(*tasks: dict[str, str], rounds: int = 2, **keys: Any) -> plans.Plan:
    return plans.parse({"rounds": rounds, "tasks": [*(tasks or (TRAIN, VALIDATE))], **keys})


def asked(envoy: str, **more: Any) -> Member:
    """A member that was asked in the open round."""
    return Member(envoy, CollaboratorState.WORKING, **{"assignment": AssignmentState.ASKED, **more})


def done(envoy: str, **more: Any) -> Member:
    return asked(envoy, complete=True, **more)


def failed(envoy: str, message: str | None = None, **more: Any) -> Member:
    failure = None if message is None else Failure(message)
    state = {"assignment": AssignmentState.FAILED, "failure": failure, **more}
    return Member(envoy, CollaboratorState.FAILED, **state)


def collecting(
    *members: Member,
    now: float = 100.0,
    number: int = 1,
    kind: RoundKind = RoundKind.TRAIN,
    first_task: float | None = None,
    **keys: Any,
) -> Snapshot:
    current = OpenRound(number, kind, RoundState.COLLECTING, DEADLINE, first_task)
    return Snapshot(a_plan(**keys), ExperimentState.IN_PROGRESS, seed=7, now=now, members=members, round=current)


def between_rounds(*members: Member, closed: int = 0, now: float = 100.0, **keys: Any) -> Snapshot:
    current = OpenRound(closed, RoundKind.TRAIN, RoundState.CLOSED, DEADLINE) if closed else None
    return Snapshot(a_plan(**keys), ExperimentState.IN_PROGRESS, seed=7, now=now, members=members, round=current)


def free(envoy: str) -> Member:
    return Member(envoy, CollaboratorState.ASSIGNED)


# When a round ends


def test_round_waits_for_those_who_are_still_open():
    assert next_step(collecting(done("a"), asked("b"))) == Wait(DEADLINE)


def test_round_is_frozen_when_everybody_is_done():
    assert next_step(collecting(done("a"), done("b"))) == Freeze()


def test_round_that_may_do_with_fewer_still_waits_for_those_who_are_there():
    assert isinstance(next_step(collecting(done("a"), asked("b"), min_collaborators=1)), Wait)


def test_round_ends_at_its_target_whoever_is_still_open():
    assert next_step(collecting(done("a"), asked("b"), asked("c"), asked("d"), percentage=0.25)) == Freeze()


def test_target_below_the_minimum_does_not_end_a_round():
    members = done("a"), asked("b"), asked("c")

    assert isinstance(next_step(collecting(*members, percentage=0.1, min_collaborators=2)), Wait)


def test_over_selected_round_ends_when_as_many_as_were_meant_are_done():
    members = done("a"), done("b"), asked("c"), asked("d")

    assert next_step(collecting(*members, selection=0.5, over_selection=2)) == Freeze()


def test_round_does_not_end_without_a_required_one():
    members = asked("a"), done("b"), done("c")

    assert isinstance(next_step(collecting(*members, required_collaborators=["a"], percentage=0.5)), Wait)


def test_cutoff_counts_from_the_first_tasks_given():
    members, keys = (done("a"), asked("b")), {"cutoff": 50, "envoy_grace": "1h"}

    assert next_step(collecting(*members, **keys)) == Wait(DEADLINE)
    assert next_step(collecting(*members, **keys, first_task=51.0)) == Wait(101.0)
    assert next_step(collecting(*members, **keys, first_task=50.0)) == Freeze()


def test_round_below_its_minimum_goes_on_past_the_cutoff():
    step = next_step(collecting(asked("a"), asked("b"), cutoff=50, now=100.0, first_task=0.0))

    assert step == Wait(DEADLINE)


def test_round_ends_at_its_deadline_with_its_minimum():
    assert next_step(collecting(done("a"), asked("b"), min_collaborators=1, now=DEADLINE)) == Freeze()


def test_round_below_its_minimum_at_its_deadline_fails_the_experiment_and_says_who_was_missing():
    step = next_step(collecting(done("a"), asked("c"), asked("b"), now=DEADLINE))

    assert step == Fail("round 1 reached its deadline with 1 of at least 3 collaborators done; still waiting for b, c")


def test_round_that_is_to_wait_goes_on_past_its_deadline_until_its_minimum_holds():
    late = DEADLINE + 500

    assert next_step(collecting(done("a"), asked("b"), on_deadline="wait", now=late)) == Wait(math.inf)
    members = done("a"), done("b"), asked("c")
    assert next_step(collecting(*members, on_deadline="wait", min_collaborators=2, now=late)) == Freeze()


# Who is waited for


def test_silent_member_is_not_waited_for_once_its_grace_is_over():
    step = next_step(collecting(done("a"), asked("b", absence=GRACE + 1), min_collaborators=1))

    assert step == Freeze()


def test_silent_member_is_waited_for_until_its_grace_is_over():
    members = done("a"), asked("b", absence=GRACE - 20), asked("c", absence=GRACE + 1)

    assert next_step(collecting(*members, min_collaborators=1, now=100.0)) == Wait(120.0)


def test_silent_member_is_waited_for_where_the_minimum_needs_it():
    assert next_step(collecting(done("a"), asked("b", absence=GRACE + 1))) == Wait(DEADLINE)


def test_grace_can_be_nothing():
    members = done("a"), asked("b", absence=0.5)

    assert next_step(collecting(*members, min_collaborators=1, envoy_grace=0)) == Freeze()


@pytest.mark.parametrize("state", [CollaboratorState.FAILED, CollaboratorState.RELEASED, CollaboratorState.WORKING])
def test_complete_member_counts_whatever_becomes_of_it_afterwards(state: CollaboratorState):
    gone = replace(done("a"), state=state, absence=10 * GRACE)

    assert next_step(collecting(gone, done("b"))) == Freeze()


# When a round cannot end


def test_failure_that_leaves_too_few_fails_the_experiment_at_once_in_the_envoys_words():
    step = next_step(collecting(done("a"), failed("b", "CUDA out of memory"), failed("c")))

    assert step == Fail(
        "round 1 cannot reach its minimum of 3 collaborators; b failed: CUDA out of memory; c failed: no reason given"
    )


def test_failure_of_a_required_member_fails_the_experiment_though_others_are_many():
    members = failed("a", "disk"), done("b"), done("c")

    step = next_step(collecting(*members, required_collaborators=["a"], min_collaborators=1))

    assert step == Fail("round 1 needs a; a failed: disk")


def test_failure_is_told_with_its_task_and_its_error_and_the_end_of_a_long_message():
    told = asked("b", assignment=AssignmentState.FAILED, failure=Failure("x" * 2 * BRIEF + "no", "train", "OSError"))

    step = next_step(collecting(done("a"), replace(told, state=CollaboratorState.FAILED)))

    assert isinstance(step, Fail)
    assert "; b failed: task 'train' failed: OSError: …xxx" in step.reason
    assert step.reason.endswith("xxxno")
    assert len(step.reason) < BRIEF + 150


def test_reason_tells_of_twenty_failures_and_counts_the_others():
    members = [failed(f"envoy-{number:02}", "disk") for number in range(MAX_LISTED + 3)]

    step = next_step(collecting(*members))

    assert isinstance(step, Fail)
    assert step.reason.count(" failed: disk") == MAX_LISTED
    assert step.reason.endswith("; envoy-19 failed: disk; 3 more failed")


def test_reason_names_twenty_of_those_who_were_missing_and_counts_the_others():
    members = [asked(f"envoy-{number:02}") for number in range(MAX_LISTED + 3)]

    step = next_step(collecting(*members, now=DEADLINE))

    assert isinstance(step, Fail)
    assert step.reason.endswith("envoy-18, envoy-19 and 3 more")


def test_failure_that_leaves_enough_is_done_without():
    assert next_step(collecting(done("a"), failed("b"), min_collaborators=1)) == Freeze()
    assert isinstance(next_step(collecting(asked("a"), failed("b"), min_collaborators=1)), Wait)


# What comes after


@pytest.mark.parametrize(
    ("tasks", "number", "kind", "step"),
    [
        ([TRAIN, VALIDATE], 1, RoundKind.TRAIN, Close(1)),
        ([TRAIN, VALIDATE], 2, RoundKind.TRAIN, Close(2)),
        ([TRAIN, VALIDATE], 3, RoundKind.FINAL, Finish(3)),
        ([TRAIN], 1, RoundKind.TRAIN, Close(1)),
        ([TRAIN], 2, RoundKind.TRAIN, Finish(2)),
    ],
)
def test_frozen_round_is_closed_and_the_last_one_finishes_the_experiment(
    tasks: list[dict[str, str]], number: int, kind: RoundKind, step: Close | Finish
):
    current = OpenRound(number, kind, RoundState.AGGREGATING, DEADLINE)
    snapshot = Snapshot(a_plan(*tasks), ExperimentState.IN_PROGRESS, 7, 100.0, [done("a")], current)

    assert next_step(snapshot) == step


def test_first_round_asks_everybody_and_ends_after_its_length():
    step = next_step(between_rounds(free("a"), free("b"), now=100.0, round_deadline=60))

    assert step == Open(1, RoundKind.TRAIN, ("a", "b"), 160.0)


def test_next_round_asks_those_who_are_left():
    step = next_step(between_rounds(free("a"), failed("b"), free("c"), closed=1, min_collaborators=2))

    assert isinstance(step, Open)
    assert (step.number, step.envoys) == (2, ("a", "c"))


def test_round_that_can_ask_too_few_fails_the_experiment():
    step = next_step(between_rounds(free("a"), failed("b", "power cut"), closed=1))

    assert step == Fail("round 2 cannot reach its minimum of 2 collaborators; b failed: power cut")


def test_final_round_only_validates_and_asks_whoever_is_left_even_nobody():
    step = next_step(between_rounds(free("a"), failed("b"), closed=2, round_deadline=60, now=100.0))
    lonely = next_step(between_rounds(failed("a"), failed("b"), closed=2, round_deadline=60, now=100.0))

    assert step == Open(3, RoundKind.FINAL, ("a",), 160.0)
    assert lonely == Open(3, RoundKind.FINAL, (), 160.0)


def test_final_round_waits_for_those_who_are_there_and_needs_none():
    final: dict[str, Any] = {"kind": RoundKind.FINAL, "number": 3, "required_collaborators": ["a"]}

    assert isinstance(next_step(collecting(asked("a"), **final)), Wait)
    assert next_step(collecting(**final)) == Freeze()
    assert next_step(collecting(failed("a"), failed("b"), **final)) == Freeze()
    assert next_step(collecting(asked("a"), asked("b"), now=DEADLINE, **final)) == Freeze()
    assert next_step(collecting(asked("a", absence=GRACE + 1), **final)) == Freeze()


def test_experiment_whose_round_was_abandoned_is_left():
    current = OpenRound(1, RoundKind.TRAIN, RoundState.ABANDONED, DEADLINE)

    assert next_step(Snapshot(a_plan(), ExperimentState.IN_PROGRESS, 7, 100.0, [], current)) == Leave()


# Before the first round


def test_pending_experiment_is_owned_only_for_its_review():
    pending = Snapshot(a_plan(), ExperimentState.PENDING, 7, 100.0, [free("a")])

    assert next_step(pending) == Leave()
    assert next_step(replace(pending, review_due=True)) == Review()
    assert next_step(replace(pending, review_due=True, review_deadline=100.5)) == Review()


def test_review_that_was_not_answered_in_time_fails_the_experiment():
    pending = Snapshot(a_plan(), ExperimentState.PENDING, 7, 100.0, [], review_due=True, review_deadline=100.0)

    assert next_step(pending) == Fail("the review was not answered in time")


# Laws

ENVOYS = "abcde"
crowds = st.integers(0, 2 ** len(ENVOYS) - 1).map(
    lambda mask: [envoy for place, envoy in enumerate(ENVOYS) if mask >> place & 1]
)
seconds = st.integers(0, int(2 * DEADLINE)).map(float)
straggler_keys = st.fixed_dictionaries(
    {},
    optional={
        "min_collaborators": st.integers(1, 6),
        "required_collaborators": st.sampled_from([["a"], ["a", "b"]]),
        "selection": st.sampled_from([0.1, 0.5, 0.7]),
        "cutoff": st.integers(1, 500),
        "envoy_grace": st.integers(0, 400),
        "on_deadline": st.sampled_from(["fail", "wait"]),
    },
)
early_ends = (
    st.just({})
    | st.fixed_dictionaries({"percentage": st.sampled_from([0.1, 0.5, 1.0])})
    | st.fixed_dictionaries({"over_selection": st.integers(1, 3)})
)


@st.composite
def members(draw: st.DrawFn, envoy: str) -> Member:
    assignment = draw(st.none() | st.sampled_from(AssignmentState))
    return Member(
        envoy,
        draw(st.sampled_from(CollaboratorState)),
        absence=draw(seconds),
        assignment=assignment,
        complete=assignment is not None and draw(st.booleans()),
        failure=draw(st.none() | st.just(Failure("disk"))),
    )


@st.composite
def snapshots(draw: st.DrawFn, states: st.SearchStrategy[ExperimentState]) -> Snapshot:
    tasks = draw(st.sampled_from([[TRAIN], [TRAIN, VALIDATE]]))
    plan = a_plan(*tasks, rounds=draw(st.integers(1, 3)), **draw(straggler_keys), **draw(early_ends))
    number = draw(st.integers(1, plan.rounds + 1))
    kind = RoundKind.FINAL if number > plan.rounds else RoundKind.TRAIN
    first_task = draw(st.none() | seconds)
    rounds = st.builds(
        OpenRound,
        st.just(number),
        st.just(kind),
        st.sampled_from([*RoundState, RoundState.COLLECTING, RoundState.COLLECTING]),
        st.just(DEADLINE),
        st.just(first_task),
    )
    return Snapshot(
        plan=plan,
        state=draw(states),
        seed=7,
        now=draw(seconds),
        members=[draw(members(envoy)) for envoy in draw(crowds)],
        round=draw(st.none() | rounds),
        review_due=draw(st.booleans()),
        review_deadline=draw(st.none() | seconds),
    )


running = snapshots(st.just(ExperimentState.IN_PROGRESS))


def needs_of(snapshot: Snapshot) -> Quorum:
    return quorum(snapshot.plan, len(snapshot.members))


@given(snapshots(st.sampled_from(ExperimentState)))
def test_there_is_always_a_next_step_and_it_is_to_leave_what_has_ended(snapshot: Snapshot):
    step = next_step(snapshot)

    if snapshot.state.terminal:
        assert step == Leave()


@given(running)
def test_train_round_is_frozen_only_with_its_minimum_and_its_required_ones(snapshot: Snapshot):
    step = next_step(snapshot)

    if step == Freeze() and snapshot.round is not None and snapshot.round.kind is RoundKind.TRAIN:
        complete = {member.envoy for member in snapshot.members if member.complete}
        assert len(complete) >= needs_of(snapshot).minimum
        assert needs_of(snapshot).required <= complete


@given(running)
def test_nothing_in_a_final_round_fails_the_experiment(snapshot: Snapshot):
    if snapshot.round is not None and snapshot.round.kind is RoundKind.FINAL:
        assert not isinstance(next_step(snapshot), Fail)


@given(running)
def test_wait_ends_in_the_future(snapshot: Snapshot):
    step = next_step(snapshot)

    if isinstance(step, Wait):
        assert step.until > snapshot.now
        assert math.isfinite(step.until) or snapshot.plan.wait_past_deadline


@given(running)
def test_round_asks_the_required_ones_and_at_least_the_minimum_of_those_who_are_there(snapshot: Snapshot):
    step = next_step(snapshot)

    if isinstance(step, Open):
        available = {member.envoy for member in snapshot.members if member.available}
        assert list(step.envoys) == sorted(set(step.envoys))
        assert set(step.envoys) <= available
        assert step.deadline > snapshot.now
        if step.kind is RoundKind.TRAIN:
            assert needs_of(snapshot).required <= set(step.envoys)
            assert needs_of(snapshot).minimum <= len(step.envoys) <= max(needs_of(snapshot).asked, 1)


@given(running, crowds, crowds, seconds)
def test_round_that_can_be_frozen_can_be_frozen_whoever_fails_or_falls_silent_afterwards(
    snapshot: Snapshot, fallen: list[str], silent: list[str], later: float
):
    if next_step(snapshot) != Freeze():
        return

    changed = [
        replace(
            member,
            state=CollaboratorState.FAILED if member.envoy in fallen else member.state,
            absence=member.absence + (later if member.envoy in silent else 0.0),
        )
        for member in snapshot.members
    ]

    assert next_step(replace(snapshot, members=changed, now=snapshot.now + later)) == Freeze()
