"""The history of an experiment and of the federation: streams of events, in the past tense, and of metrics."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from director.domain.limits import MAX_LISTED
from director.domain.types import ExperimentState
from director.errors import InvalidArgument


class EventKind(StrEnum):
    """Everything that is recorded."""

    DIRECTOR_STARTED = "director_started"
    DIRECTOR_STOPPED = "director_stopped"
    DIRECTOR_REAPED = "director_reaped"
    EPOCH_BEGAN = "epoch_began"
    SHARD_REGISTERED = "shard_registered"
    ENVOY_ONLINE = "envoy_online"
    ENVOY_OFFLINE = "envoy_offline"
    ENVOY_LEFT = "envoy_left"
    ENVOY_RETIRED = "envoy_retired"
    ENVOY_RESTORED = "envoy_restored"
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
"""The actor of an event that no user and no envoy caused."""

FEDERATION = "federation"
"""The name of the federation's own stream of events."""

WRITTEN_CURSOR = re.compile(r"([^:\s]{1,80}):([0-9a-f]{1,64}):(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a stream: behind the row of this number. The federation's epoch changes when it is restored."""

    stream: str
    epoch: str
    seq: int

    def __str__(self) -> str:
        """Write it as `--after` reads it."""
        return f"{self.stream}:{self.epoch}:{self.seq}"

    @classmethod
    def parse(cls, written: str) -> Self:
        """Read what `str` wrote.

        Raises:
            InvalidArgument: it is something else.
        """
        found = WRITTEN_CURSOR.fullmatch(written)
        if found is None:
            raise InvalidArgument(f"{written!r} is not a cursor; copy one from what was printed, STREAM:EPOCH:SEQ")
        return cls(found[1], found[2], int(found[3]))


def metrics_of(uid: str) -> str:
    """Return the name of an experiment's stream of metrics."""
    return f"{uid}/metrics"


def events_of(uid: str) -> str:
    """Return the name of an experiment's stream of events."""
    return f"{uid}/events"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happens in this transaction and is to be recorded as an event."""

    kind: EventKind
    actor: str = DIRECTOR
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, with its place in the stream."""

    cursor: Cursor
    happened_at: datetime
    actor: str
    kind: str
    reason: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """One number that is to be recorded: who measured it, in which task and round."""

    round: int
    origin: str
    task: str
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One number, with its place in the stream; NaN where none was measured."""

    cursor: Cursor
    origin: str
    task: str
    name: str
    value: float
    round: int
    recorded_at: datetime


def named(key: str, names: Iterable[str]) -> dict[str, Any]:
    """Return the details of an event that name some envoys: the first ones by name, and how many there are."""
    found = sorted(names)
    return {key: found[:MAX_LISTED], f"{key}_count": len(found)}


def listed(names: Iterable[str]) -> str:
    """Write names in a row, in order; a long row ends with the number of those left out."""
    found = sorted(names)
    if len(found) > MAX_LISTED:
        return f"{', '.join(found[:MAX_LISTED])} and {len(found) - MAX_LISTED} more"
    return ", ".join(found) if found else "nobody"
