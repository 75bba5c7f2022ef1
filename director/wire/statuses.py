"""Errors as gRPC statuses, and back: the one table that maps them.

A status carries the error's text and, in its details, a `google.rpc.ErrorInfo` that names the error's class. So the
client raises the class that the director raised, and a client in another language reads the same name. An error that
means "later" also carries a `google.rpc.RetryInfo` with the delay.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from director import errors
from director.errors import DirectorError, Later, Unavailable

DOMAIN = "director"
"""The `domain` of our ErrorInfo; reasons of other domains are ignored."""

DETAILS_KEY = "grpc-status-details-bin"

LONGEST_TEXT = 1024
"""Bytes of an error's text on the wire: it travels twice, in headers that peers limit to 8 KiB."""

MAX_DELAY = timedelta(minutes=5)
"""A caller waits no longer than this, whatever a status says."""

STATUSES: Mapping[type[DirectorError], grpc.StatusCode] = MappingProxyType(
    {
        errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
        errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Conflict: grpc.StatusCode.ABORTED,
        errors.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.DiskFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Later: grpc.StatusCode.UNAVAILABLE,
        errors.Corrupt: grpc.StatusCode.DATA_LOSS,
        errors.SchemaOutdated: grpc.StatusCode.FAILED_PRECONDITION,
        DirectorError: grpc.StatusCode.INTERNAL,
    }
)
"""The code of each class; a class that is not listed has the code of the nearest listed class above it."""

CLASSES: Mapping[grpc.StatusCode, type[DirectorError]] = MappingProxyType(
    {code: kind for kind, code in tuple(STATUSES.items())[::-1] if kind is not errors.SchemaOutdated}
    | {
        grpc.StatusCode.UNAVAILABLE: Unavailable,
        grpc.StatusCode.CANCELLED: Unavailable,
        grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    }
)
"""What to raise for a status that does not name its class: from a proxy, from gRPC itself, from a newer director."""


def code_of(kind: type[DirectorError]) -> grpc.StatusCode:
    """Return the status code of an error's class."""
    return next(STATUSES[each] for each in kind.__mro__ if each in STATUSES)


def to_rich_status(error: DirectorError) -> grpc.Status:
    """Turn an error into the status that ends a call; one that means "later" carries the delay.

    A servicer ends its call with `await context.abort(status.code, status.details, status.trailing_metadata)`.
    """
    details = [_packed(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))]
    if isinstance(error, Later):
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(error.retry_after)
        details.append(_packed(info))
    text = _clipped(str(error) or type(error).__name__)
    return rpc_status.to_status(status_pb2.Status(code=code_of(type(error)).value[0], message=text, details=details))


def from_rpc_error(error: grpc.RpcError) -> DirectorError:
    """Turn the error of a call, synchronous or asyncio, into the one that the director raised.

    A call that was cut off (UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED) becomes `Unavailable`: repeat it.
    RESOURCE_EXHAUSTED without our ErrorInfo becomes `Overloaded` if it carries a delay, and `TooLarge` if not.
    """
    text = error.details() or f"the director answered {error.code().name} without a text"
    reason, delay = _details(error)
    kind = {each.__name__: each for each in _family(DirectorError)}.get(reason)
    if kind is None:
        kind = CLASSES.get(error.code(), DirectorError)
        if kind is errors.TooLarge and delay is not None:
            kind = errors.Overloaded
    found = kind(text)
    if isinstance(found, Later):
        found.retry_after = delay or timedelta(0)  # a call that was cut off says nothing: the caller's own pauses apply
    return found


def _packed(detail: Message) -> any_pb2.Any:
    wrapped = any_pb2.Any()
    wrapped.Pack(detail)
    return wrapped


def _clipped(text: str) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= LONGEST_TEXT:
        return encoded.decode()
    return encoded[: LONGEST_TEXT - 4].decode("utf-8", "ignore") + " …"


def _family(kind: type[DirectorError]) -> Iterator[type[DirectorError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _family(each)


def _details(error: grpc.RpcError) -> tuple[str, timedelta | None]:
    """Return the reason that our ErrorInfo names, and the delay that a RetryInfo names; both may be missing."""
    reason, delay = "", None
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())  # pairs, unlike the stubs say
    for key, value in metadata:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        with suppress(DecodeError):
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    reason = info.reason
                elif detail.Unpack(retry):
                    seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
                    delay = timedelta(seconds=min(max(seconds, 0), MAX_DELAY.total_seconds()))
    return reason, delay
