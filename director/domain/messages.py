"""Commands, in the imperative, and events, in the past tense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from director.domain.tensors import Manifest
from director.domain.types import ExperimentState


@dataclass(frozen=True, slots=True)
class Content:
    """The identity of a run of bytes: its length, and its SHA-256 in hexadecimal."""

    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class SubmitExperiment:
    """Put an experiment into the queue."""

    submission_id: str
    name: str
    collaborators: Sequence[str]
    archive: Content
    model: Content
    manifest: Manifest
    users: Sequence[str] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Say that an envoy is alive."""

    envoy: str
    is_experiment_running: bool
    devices: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Contribute:
    """Hand in a collaborator's result of one task in one round."""

    experiment_id: int
    envoy: str
    attempt: int
    round_number: int
    task: str
    samples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    update: Content | None = None
    manifest: Manifest | None = None


class EventKind(StrEnum):
    """Everything that is recorded."""

    DIRECTOR_STARTED = "director_started"
    DIRECTOR_STOPPED = "director_stopped"
    DIRECTOR_REAPED = "director_reaped"
    EPOCH_BEGAN = "epoch_began"
    SHARD_REGISTERED = "shard_registered"
    ENVOY_ONLINE = "envoy_online"
    ENVOY_OFFLINE = "envoy_offline"
    EXPERIMENT_SUBMITTED = "experiment_submitted"
    EXPERIMENT_APPROVED = "experiment_approved"
    EXPERIMENT_REJECTED = "experiment_rejected"
    EXPERIMENT_STARTED = "experiment_started"
    EXPERIMENT_CLAIMED = "experiment_claimed"
    EXPERIMENT_RELEASED = "experiment_released"
    EXPERIMENT_FINISHED = "experiment_finished"
    EXPERIMENT_FAILED = "experiment_failed"
    EXPERIMENT_CANCELLED = "experiment_cancelled"
    EXPERIMENT_REMOVED = "experiment_removed"
    EXPERIMENT_GIVEN = "experiment_given"
    COLLABORATOR_FAILED = "collaborator_failed"
    ROUND_OPENED = "round_opened"
    TASKS_GIVEN = "tasks_given"
    CONTRIBUTION_RECEIVED = "contribution_received"
    CONTRIBUTION_LATE = "contribution_late"
    ROUND_FROZEN = "round_frozen"
    ROUND_CLOSED = "round_closed"
    ROUND_ABANDONED = "round_abandoned"


ENDINGS: Mapping[ExperimentState, EventKind] = {
    ExperimentState.FINISHED: EventKind.EXPERIMENT_FINISHED,
    ExperimentState.FAILED: EventKind.EXPERIMENT_FAILED,
    ExperimentState.CANCELLED: EventKind.EXPERIMENT_CANCELLED,
    ExperimentState.REJECTED: EventKind.EXPERIMENT_REJECTED,
}
"""What is recorded when an experiment ends in a state."""

DIRECTOR = "director"
"""The actor of what nobody else asked for."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""

    kind: EventKind
    actor: str = DIRECTOR
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
