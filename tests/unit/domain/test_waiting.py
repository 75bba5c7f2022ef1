from typing import Any

import pytest

from director.domain import plan as plans
from director.domain.experiment import Failure
from director.domain.limits import MAX_LISTED
from director.domain.steps import Member, OpenRound, Snapshot
from director.domain.types import AssignmentState, CollaboratorState, ExperimentState, RoundKind, RoundState
from director.domain.waiting import Circumstances, EnvoyPresence, why

HERE = EnvoyPresence(online=True, absence=1.0, serving=None)
GONE = EnvoyPresence(online=False, absence=125.4, serving=None)


def a_snapshot(state: ExperimentState, *members: Member, current: OpenRound | None = None, **keys: Any) -> Snapshot:
    tasks = [{"name": "train", "kind": "train", "function": "m:f"}]
    plan = plans.parse({"rounds": 3, "tasks": tasks, **keys})
    return Snapshot(plan, state, seed=1, now=100.0, members=members, round=current)


def around(**changes: Any) -> Circumstances:
    usual: dict[str, Any] = {
        "envoys": {"a": HERE, "b": HERE},
        "eligible": True,
        "owned": True,
        "manual_review": False,
        "ahead": (),
        "running": 0,
        "limit": 16,
        "rests_seconds": 0.0,
    }
    return Circumstances(**(usual | changes))


A, B = (Member(envoy, CollaboratorState.WAITING) for envoy in "ab")
PENDING = a_snapshot(ExperimentState.PENDING, A, B)


@pytest.mark.parametrize("state", [state for state in ExperimentState if state.terminal])
def test_ended_experiment_waits_for_nothing(state: ExperimentState):
    assert why(a_snapshot(state, A), around()) == [f"nothing: it is {state}"]


def test_experiment_waits_for_its_review():
    assert why(PENDING, around(eligible=False)) == ["the answer of the director's review callback"]
    assert why(PENDING, around(eligible=False, manual_review=True)) == [
        "a manual review: an operator approves or rejects it"
    ]


def test_experiment_waits_for_its_quorum_and_says_who_is_offline():
    assert why(PENDING, around(envoys={"a": HERE, "b": GONE})) == [
        "its quorum: 1 of at least 2 envoys are online; it fails after 86400 s",
        "envoy b: offline for 125 s",
    ]


def test_experiment_waits_for_a_required_envoy():
    snapshot = a_snapshot(ExperimentState.PENDING, A, B, required_collaborators=["b"], min_collaborators=1)

    found = why(snapshot, around(envoys={"a": HERE, "b": GONE}))

    assert found[0].startswith("its quorum: 1 of at least 1 envoys are online")


def test_experiment_that_can_do_without_an_offline_envoy_does_not_wait_for_it():
    snapshot = a_snapshot(ExperimentState.PENDING, A, B, min_collaborators=1)

    assert why(snapshot, around(envoys={"a": HERE, "b": GONE})) == ["the director's next look at the queue"]


def test_failed_collaborator_is_no_part_of_the_quorum_though_its_envoy_is_online():
    out = Member("b", CollaboratorState.FAILED, failure=Failure("an operator retired it"))
    needed = a_snapshot(ExperimentState.PENDING, A, out)
    unneeded = a_snapshot(ExperimentState.PENDING, A, out, min_collaborators=1)
    required = a_snapshot(ExperimentState.PENDING, A, out, min_collaborators=1, required_collaborators=["b"])

    assert why(needed, around()) == [
        "its quorum: 1 of at least 2 envoys are online; it fails after 86400 s",
        "envoy b: failed: an operator retired it",
    ]
    assert why(required, around())[0].startswith("its quorum: 1 of at least 1 envoys are online")
    assert why(unneeded, around()) == ["the director's next look at the queue"]


def test_experiment_does_not_wait_for_the_envoy_of_a_failed_collaborator_that_is_busy_elsewhere():
    snapshot = a_snapshot(ExperimentState.PENDING, A, Member("b", CollaboratorState.FAILED), min_collaborators=1)
    busy = EnvoyPresence(online=True, absence=0.0, serving="another")

    assert why(snapshot, around(envoys={"a": HERE, "b": busy})) == ["the director's next look at the queue"]


def test_envoy_that_is_offline_and_busy_is_named_once():
    lost = EnvoyPresence(online=False, absence=60.0, serving="another")

    assert why(PENDING, around(envoys={"a": HERE, "b": lost}))[1:] == ["envoy b: offline for 60 s"]


@pytest.mark.parametrize(("offline", "busy"), [(50, 0), (0, 50), (15, 10), (20, 0)])
def test_pending_experiment_names_twenty_envoys_and_counts_the_others(offline: int, busy: int):
    names = [f"envoy-{number:02}" for number in range(offline + busy)]
    serving = EnvoyPresence(online=True, absence=0.0, serving="another")
    members = [Member(name, CollaboratorState.WAITING) for name in names]
    envoys = dict.fromkeys(names[:offline], GONE) | dict.fromkeys(names[offline:], serving)

    found = why(a_snapshot(ExperimentState.PENDING, *members), around(envoys=envoys))

    named = [sentence for sentence in found if sentence.startswith("envoy envoy-")]
    assert len(named) == MAX_LISTED
    assert [name for name in names if any(name in sentence for sentence in named)] == names[:MAX_LISTED]
    more = offline + busy - MAX_LISTED
    assert (f"{more} more envoys are not available" in found) == (more > 0)


def test_place_in_the_queue_names_twenty_experiments_and_counts_the_others():
    ahead = [f"experiment-{number:02}" for number in range(23)]

    [place] = why(PENDING, around(ahead=ahead))

    assert place.startswith("its place in the queue: 23 before it (experiment-00, ")
    assert place.endswith(", experiment-19 and 3 more)")


@pytest.mark.parametrize(
    ("ahead", "named"),
    [
        (["x", None, "y", None], "4 before it (x, y and 2 of other users)"),
        ([None], "1 before it (1 of other users)"),
        (["x"], "1 before it (x)"),
    ],
)
def test_experiments_of_other_users_in_the_queue_are_counted(ahead, named):
    assert why(PENDING, around(ahead=ahead)) == [f"its place in the queue: {named}"]


def test_experiment_waits_for_busy_envoys_room_and_its_place():
    busy = EnvoyPresence(online=True, absence=0.0, serving="another")

    assert why(PENDING, around(envoys={"a": HERE, "b": busy}, running=16, ahead=["x", "y"])) == [
        "envoy b: busy with experiment another",
        "room: 16 experiments are running, which is the limit",
        "its place in the queue: 2 before it (x, y)",
    ]


def test_running_experiment_waits_for_a_director():
    running = a_snapshot(ExperimentState.IN_PROGRESS, A)

    assert why(running, around(owned=False)) == ["a director to claim it"]
    assert why(running, around(owned=False, rests_seconds=19.6)) == [
        "the end of a pause of 20 s: it took its director down several times"
    ]
    assert why(running, around()) == ["its first round to open"]


def test_round_waits_for_open_results_until_its_deadline():
    members = [
        Member("a", CollaboratorState.WORKING, assignment=AssignmentState.ASKED),
        Member("b", CollaboratorState.ASSIGNED, assignment=AssignmentState.ASKED),
        Member("c", CollaboratorState.WORKING, assignment=AssignmentState.ASKED, complete=True),
    ]
    current = OpenRound(2, RoundKind.TRAIN, RoundState.COLLECTING, deadline=160.0)

    found = why(
        a_snapshot(ExperimentState.IN_PROGRESS, *members, current=current),
        around(envoys={"a": HERE, "b": GONE, "c": HERE}),
    )

    assert found == [
        "envoy b: offline for 125 s, its results are open",
        "envoy a: working, its results are open",
        "round 2: its deadline is in 60 s",
    ]


def test_round_names_twenty_envoys_those_that_are_offline_first_and_counts_the_others():
    names = [f"envoy-{number:02}" for number in range(23)]
    members = [Member(name, CollaboratorState.WORKING, assignment=AssignmentState.ASKED) for name in names]
    current = OpenRound(2, RoundKind.TRAIN, RoundState.COLLECTING, deadline=160.0)
    envoys = dict.fromkeys(names, HERE) | {names[-1]: GONE}

    found = why(a_snapshot(ExperimentState.IN_PROGRESS, *members, current=current), around(envoys=envoys))

    assert found[0] == "envoy envoy-22: offline for 125 s, its results are open"
    assert found[1] == "envoy envoy-00: working, its results are open"
    assert found[MAX_LISTED:] == ["3 more envoys have open results", "round 2: its deadline is in 60 s"]


def test_final_validation_past_its_deadline_says_so():
    current = OpenRound(4, RoundKind.FINAL, RoundState.COLLECTING, deadline=90.0)

    assert why(a_snapshot(ExperimentState.IN_PROGRESS, current=current), around()) == [
        "the final validation: its deadline has passed"
    ]


@pytest.mark.parametrize("state", [RoundState.AGGREGATING, RoundState.CLOSED])
def test_frozen_round_waits_for_its_aggregation(state: RoundState):
    current = OpenRound(2, RoundKind.TRAIN, state, deadline=160.0)

    found = why(a_snapshot(ExperimentState.IN_PROGRESS, A, current=current), around())

    assert found == ["the aggregation of round 2"]
