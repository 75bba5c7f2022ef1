"""The transitions of experiments and collaborators, as tables.

A guarded UPDATE names `sources(state)`, so that no other transition can happen.
"""

from collections.abc import Mapping

from director.domain.types import CollaboratorState, ExperimentState

S = ExperimentState
C = CollaboratorState

EXPERIMENT: Mapping[ExperimentState, frozenset[ExperimentState]] = {
    S.PENDING: frozenset({S.IN_PROGRESS, S.REJECTED, S.CANCELLED, S.FAILED}),
    S.IN_PROGRESS: frozenset({S.FINISHED, S.FAILED, S.CANCELLED}),
    S.FINISHED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
    S.REJECTED: frozenset(),
}
"""The states that may follow each state; none follows a terminal one."""

COLLABORATOR: Mapping[CollaboratorState, frozenset[CollaboratorState]] = {
    C.WAITING: frozenset({C.QUEUED, C.FAILED, C.RELEASED}),
    C.QUEUED: frozenset({C.ASSIGNED, C.FAILED, C.RELEASED}),
    C.ASSIGNED: frozenset({C.ASSIGNED, C.WORKING, C.DONE, C.FAILED, C.RELEASED}),
    C.WORKING: frozenset({C.ASSIGNED, C.WORKING, C.DONE, C.FAILED, C.RELEASED}),
    C.DONE: frozenset(),
    C.FAILED: frozenset(),
    C.RELEASED: frozenset(),
}
"""The same for collaborators. One is assigned again when its envoy comes back."""


def sources(state: ExperimentState) -> list[ExperimentState]:
    """Return the states that may become this one."""
    return [source for source, targets in EXPERIMENT.items() if state in targets]


def collaborator_sources(state: CollaboratorState) -> list[CollaboratorState]:
    """Return the collaborator's states that may become this one."""
    return [source for source, targets in COLLABORATOR.items() if state in targets]


SECONDS_PER_PRIORITY = 3600.0


def rank(eligible_at_seconds: float, priority: int) -> float:
    """Return the place in the queue, smallest first: a point of priority is worth an hour of waiting.

    Units: seconds since 1970 in, and out.
    """
    return eligible_at_seconds - priority * SECONDS_PER_PRIORITY
