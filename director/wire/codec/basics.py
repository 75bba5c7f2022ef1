"""Instants, lengths, enumerations, JSON, and the values that every service uses."""

import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from director.domain.content import Content
from director.domain.experiment import Failure
from director.domain.history import Cursor, Event
from director.errors import DirectorError
from director.v1 import common_pb2 as pb

State = TypeVar("State", bound=StrEnum)


def write_duration(length: timedelta) -> Duration:
    """Write a length of time."""
    message = Duration()
    message.FromTimedelta(length)
    return message


def read_duration(message: Duration) -> timedelta:
    """Read a length of time."""
    return message.ToTimedelta()


def write_instant(instant: datetime | None) -> Timestamp | None:
    """Write an instant; None stays absent."""
    if instant is None:
        return None
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def read_instant(message: Timestamp) -> datetime:
    """Read an instant."""
    return message.ToDatetime(UTC)


def read_instant_of(message: Any, field: str) -> datetime | None:
    """Read the instant in a field of a message; None where it is absent."""
    return read_instant(getattr(message, field)) if message.HasField(field) else None


def write_enum(wrapper: Any, member: StrEnum) -> Any:
    """Write a member of an enumeration, whose members have the same names on the wire."""
    return wrapper.Value(member.name)


def read_enum(wrapper: Any, kind: type[State], number: int) -> State:
    """Read a member of an enumeration.

    Raises:
        DirectorError: the number is 0, or the other side is newer and knows a member that this version does not.
    """
    known = {value: name for name, value in wrapper.items()}
    try:
        return kind[known[number]]
    except KeyError:
        text = f"{kind.__name__} {number} is unknown to this version of the director's package; install a newer one"
        raise DirectorError(text) from None


def write_json(value: Any) -> str:
    """Write a document."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_json(text: str) -> dict[str, Any]:
    """Read a document; an empty text stands for an empty document."""
    found: dict[str, Any] = json.loads(text or "{}")
    return found


def write_content(content: Content) -> pb.BlobInfo:
    """Write the identity of a run of bytes."""
    return pb.BlobInfo(size_bytes=content.size_bytes, sha256=content.sha256)


def read_content(message: pb.BlobInfo) -> Content:
    """Read the identity of a run of bytes.

    Raises:
        InvalidArgument: the digest is not 32 bytes long, or the length is negative.
    """
    return Content.of_sha256(message.size_bytes, message.sha256)


def write_cursor(cursor: Cursor) -> pb.Cursor:
    """Write a place in a stream."""
    return pb.Cursor(stream=cursor.stream, epoch=cursor.epoch, seq=cursor.seq)


def read_cursor(message: pb.Cursor) -> Cursor:
    """Read a place in a stream."""
    return Cursor(message.stream, message.epoch, message.seq)


def write_event(event: Event) -> pb.Event:
    """Write an event."""
    return pb.Event(
        cursor=write_cursor(event.cursor),
        event_time=write_instant(event.happened_at),
        actor=event.actor,
        kind=event.kind,
        reason=event.reason,
        details_json=write_json(dict(event.details)),
    )


def read_event(message: pb.Event) -> Event:
    """Read an event."""
    return Event(
        cursor=read_cursor(message.cursor),
        happened_at=read_instant(message.event_time),
        actor=message.actor,
        kind=message.kind,
        reason=message.reason,
        details=read_json(message.details_json),
    )


def write_failure(failure: Failure) -> pb.Failure:
    """Write why a collaborator cannot go on."""
    return pb.Failure(task=failure.task, error_type=failure.error_type, message=failure.message)


def read_failure(message: pb.Failure) -> Failure:
    """Read why a collaborator cannot go on."""
    return Failure(message=message.message, task=message.task, error_type=message.error_type)
