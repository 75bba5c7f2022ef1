"""What a director answers, as values: frozen, printable, and free of protobuf."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from director.domain.types import ExperimentState
from director.errors import DirectorError
from director.v1 import envoys_pb2, experiments_pb2


@dataclass(frozen=True, slots=True)
class FederationInfo:
    """What the federation expects of shards; `epoch` changes when its database was restored."""

    epoch: str
    sample_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    version: str


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """An accelerator of an envoy."""

    index: int
    name: str
    memory_total_bytes: int
    memory_used_bytes: int


@dataclass(frozen=True, slots=True)
class EnvoyInfo:
    """An envoy, its shard, and whether it is there; `experiment` is yours that it takes part in, or empty."""

    name: str
    description: str
    samples: int
    sample_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    is_online: bool
    is_experiment_running: bool
    last_seen_at: datetime | None
    heartbeat_period: timedelta
    experiment: str
    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True, slots=True)
class CollaboratorInfo:
    """An envoy's part in an experiment; `error` says why it failed, if it did."""

    envoy: str
    state: str
    attempt: int
    error: str


@dataclass(frozen=True, slots=True)
class ExperimentInfo:
    """An experiment as it was when the director answered.

    `round` is the one that is open, or was last: 0 before the first, `rounds_total + 1` in the final validation.
    `waiting_for` and `plan` are empty in a list; `refresh` fills them.
    """

    id: int
    name: str
    owner: str
    state: ExperimentState
    reason: str
    round: int
    rounds_total: int
    collaborators: tuple[CollaboratorInfo, ...]
    best_model: int | None
    best_score: float | None
    last_model: int
    priority: int
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    waiting_for: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number; `seq` with `epoch` is the cursor to go on after it."""

    seq: int
    origin: str
    task: str
    name: str
    value: float
    round: int
    recorded_at: datetime | None
    epoch: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an experiment; `seq` with `epoch` is the cursor to go on after it."""

    seq: int
    happened_at: datetime | None
    actor: str
    kind: str
    reason: str
    details: Mapping[str, Any]
    epoch: str


def federation_of(message: experiments_pb2.Federation) -> FederationInfo:
    """Read the federation from its message."""
    return FederationInfo(message.epoch, tuple(message.sample_shape), tuple(message.target_shape), message.version)


def envoy_of(message: experiments_pb2.EnvoyInfo) -> EnvoyInfo:
    """Read an envoy from its message."""
    return EnvoyInfo(
        name=message.shard.envoy,
        description=message.shard.description,
        samples=message.shard.samples,
        sample_shape=tuple(message.shard.sample_shape),
        target_shape=tuple(message.shard.target_shape),
        is_online=message.is_online,
        is_experiment_running=message.is_experiment_running,
        last_seen_at=instant(message.last_seen_time),
        heartbeat_period=message.heartbeat_period.ToTimedelta(),
        experiment=message.experiment_name,
        devices=tuple(_device_of(each) for each in message.devices),
    )


def experiment_of(message: experiments_pb2.Experiment) -> ExperimentInfo:
    """Read an experiment from its message.

    Raises:
        DirectorError: the director is newer, and the experiment in a state that is not known here.
    """
    return ExperimentInfo(
        id=message.id,
        name=message.name,
        owner=message.owner,
        state=_state_of(message.state),
        reason=message.reason,
        round=message.round,
        rounds_total=message.rounds_total,
        collaborators=tuple(
            CollaboratorInfo(each.envoy, each.state, each.attempt, each.error) for each in message.collaborators
        ),
        best_model=message.best_model if message.HasField("best_model") else None,
        best_score=message.best_score if message.HasField("best_score") else None,
        last_model=message.last_model,
        priority=message.priority,
        submitted_at=instant(message.submit_time),
        started_at=instant(message.start_time),
        finished_at=instant(message.finish_time),
        waiting_for=tuple(message.waiting_for),
        plan=json.loads(message.plan_json or "{}"),
    )


def metric_of(message: experiments_pb2.Metric) -> Metric:
    """Read a metric from its message."""
    return Metric(
        seq=message.seq,
        origin=message.origin,
        task=message.task,
        name=message.name,
        value=message.value,
        round=message.round,
        recorded_at=instant(message.record_time),
        epoch=message.epoch,
    )


def event_of(message: experiments_pb2.Event) -> Event:
    """Read an event from its message."""
    return Event(
        seq=message.seq,
        happened_at=instant(message.event_time),
        actor=message.actor,
        kind=message.kind,
        reason=message.reason,
        details=json.loads(message.details_json or "{}"),
        epoch=message.epoch,
    )


def instant(message: Timestamp) -> datetime | None:
    """Read an instant; one that was not set is none."""
    return message.ToDatetime(UTC) if message.seconds or message.nanos else None


def _device_of(message: envoys_pb2.Device) -> DeviceInfo:
    return DeviceInfo(message.index, message.name, message.memory_total_bytes, message.memory_used_bytes)


def _state_of(number: int) -> ExperimentState:
    try:
        name = experiments_pb2.ExperimentState.Name(experiments_pb2.ExperimentState.ValueType(number))
        return ExperimentState(name.removeprefix("EXPERIMENT_STATE_").lower())
    except ValueError:
        raise DirectorError(
            f"the director names an experiment's state ({number}) that this version does not know"
        ) from None
