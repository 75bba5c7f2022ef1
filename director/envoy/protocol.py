"""What an envoy and its worker say to each other: one JSON object a line, commands in, answers out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from director.domain.experiment import Failure
from director.domain.names import LONGEST, storable


@dataclass(frozen=True, slots=True)
class LoadShard:
    """Make the shard, then go into the workspace."""

    reference: str
    params: Mapping[str, Any]
    workspace: str


@dataclass(frozen=True, slots=True)
class RunTask:
    """Run one task on a model.

    Three fields name files: `model` holds the payload, `manifest` the manifest's canonical form, and `update` is where
    a train task's update is written.
    """

    name: str
    kind: str
    function: str
    settings: Mapping[str, Any]
    round: int
    model: str
    manifest: str
    update: str


@dataclass(frozen=True, slots=True)
class ShardLoaded:
    """The shard is made; tasks may come."""


@dataclass(frozen=True, slots=True)
class TaskDone:
    """The result of a task; the last two fields describe the update that a train task wrote.

    Units: samples counts what the result rests on, at least 1; sha256 is hexadecimal.
    """

    samples: int
    metrics: Mapping[str, float]
    size_bytes: int = 0
    sha256: str = ""


Command = LoadShard | RunTask
Message = LoadShard | RunTask | ShardLoaded | TaskDone | Failure
"""A failure is the answer to a command that failed, and goes on to the director as it is."""

KINDS: Mapping[str, type[Message]] = {
    kind.__name__: kind for kind in (LoadShard, RunTask, ShardLoaded, TaskDone, Failure)
}


def encode(message: Message) -> bytes:
    """Return a message as one line."""
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read one line."""
    fields = json.loads(line)
    return KINDS[fields.pop("type")](**fields)


def failure_of(message: str, *, task: str = "", error: BaseException | None = None) -> Failure:
    """Describe a failure in a form that every database and every wire can hold; of a long message, keep the end."""
    error_type = "" if error is None else type(error).__name__[:LONGEST]
    return Failure(storable(message), task=task, error_type=error_type)
