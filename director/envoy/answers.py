"""What the director tells an envoy, as plain values, and how they are read from its messages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from director.domain.tensors import Manifest
from director.domain.types import TaskKind
from director.v1 import envoys_pb2, rounds_pb2
from director.wire import chunks


@dataclass(frozen=True, slots=True)
class Engagement:
    """An experiment as given to this envoy; the attempt rises each time it is handed out."""

    experiment_id: int
    experiment_name: str
    attempt: int

    @classmethod
    def of(cls, message: envoys_pb2.HeartbeatResponse | envoys_pb2.WaitExperimentResponse) -> Self | None:
        """Read the engagement that an answer carries, if it carries one."""
        if not message.HasField("engagement"):
            return None
        found = message.engagement
        return cls(found.experiment_id, found.experiment_name, found.attempt)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The answer to a heartbeat: when the next is due, and what the envoy should be working on."""

    period: timedelta
    engagement: Engagement | None


@dataclass(frozen=True, slots=True)
class Order:
    """A task to run."""

    name: str
    kind: TaskKind
    function: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """Tasks to run in their order, and the model they start from; the digest is hexadecimal."""

    round_number: int
    base_model: int
    digest: str
    manifest: Manifest
    orders: tuple[Order, ...]

    @classmethod
    def of(cls, message: rounds_pb2.Work) -> Self:
        """Read it from a message."""
        return cls(
            round_number=message.round,
            base_model=message.base_model,
            digest=message.model.sha256.hex(),
            manifest=chunks.manifest_of(message.manifest),
            orders=tuple(
                Order(task.name, TaskKind(task.kind), task.function, json.loads(task.settings_json or "{}"))
                for task in message.tasks
            ),
        )


@dataclass(frozen=True, slots=True)
class Quit:
    """The envoy's part in the experiment is over."""

    reason: str
