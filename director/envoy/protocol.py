"""What an envoy and its worker say to each other: one JSON object a line, commands in, answers out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_TEXT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class LoadShard:
    """Make the shard, then go into the workspace."""

    reference: str
    params: Mapping[str, Any]
    workspace: str


@dataclass(frozen=True, slots=True)
class RunTask:
    """Run one task on a model, a file that holds a payload, and write the update of a train task to another file."""

    name: str
    kind: str
    function: str
    settings: Mapping[str, Any]
    round: int
    model: str
    manifest: list[list[Any]]
    update: str


@dataclass(frozen=True, slots=True)
class ShardLoaded:
    """The shard is there; tasks may come."""


@dataclass(frozen=True, slots=True)
class TaskDone:
    """What a task came to; the last two tell of the update that a train task wrote.

    Units: samples counts what the result rests on, at least 1; sha256 is hexadecimal.
    """

    samples: int
    metrics: Mapping[str, float]
    size_bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A command failed; the text is for the owner of the experiment."""

    text: str


Message = LoadShard | RunTask | ShardLoaded | TaskDone | Failed

KINDS: Mapping[str, type[Message]] = {
    kind.__name__: kind for kind in (LoadShard, RunTask, ShardLoaded, TaskDone, Failed)
}


def encode(message: Message) -> bytes:
    """Return a message as one line."""
    return json.dumps({"message": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Read one line."""
    fields = json.loads(line)
    return KINDS[fields.pop("message")](**fields)


def clipped(text: str) -> str:
    """Return a text that any database and any wire can hold: its last 64 KiB, without NUL and lone surrogates."""
    data = text.replace("\0", "\\0").encode(errors="backslashreplace")
    return data[-MAX_TEXT_BYTES:].decode(errors="ignore")
