import pytest

from director.domain.transitions import COLLABORATOR, EXPERIMENT, collaborator_sources, rank, sources
from director.domain.types import CollaboratorState, ExperimentState

C, S = CollaboratorState, ExperimentState


def test_every_state_has_its_transitions():
    assert set(EXPERIMENT) == set(S)
    assert set(COLLABORATOR) == set(C)


def test_ended_experiment_becomes_nothing_else():
    assert [state for state, targets in EXPERIMENT.items() if not targets] == [state for state in S if state.terminal]


def test_ended_part_becomes_nothing_else():
    assert [state for state, targets in COLLABORATOR.items() if not targets] == [C.DONE, C.FAILED, C.RELEASED]


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (S.PENDING, []),
        (S.IN_PROGRESS, [S.PENDING]),
        (S.FINISHED, [S.IN_PROGRESS]),
        (S.FAILED, [S.PENDING, S.IN_PROGRESS]),
        (S.CANCELLED, [S.PENDING, S.IN_PROGRESS]),
        (S.REJECTED, [S.PENDING]),
    ],
)
def test_each_state_is_reached_from_these(state: ExperimentState, found: list[ExperimentState]):
    assert sources(state) == found


def test_envoy_that_comes_back_is_assigned_again():
    assert collaborator_sources(C.ASSIGNED) == [C.QUEUED, C.ASSIGNED, C.WORKING]


def test_only_those_who_took_part_are_done():
    assert collaborator_sources(C.DONE) == [C.ASSIGNED, C.WORKING]


def test_point_of_priority_is_an_hour_of_waiting():
    assert rank(7200.0, 2) == rank(0.0, 0)
    assert rank(3599.0, 1) < rank(0.0, 0) < rank(3601.0, 1)
