"""Errors as gRPC statuses, and back: the one table that maps them.

A status carries the error's text and, in its details, a `google.rpc.ErrorInfo` that names the error's class. So a
caller meets the very class that the director raised, and a client in another language reads the same name.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from director import errors
from director.errors import DirectorError, Unavailable

DOMAIN = "director"
"""The `domain` of our ErrorInfo; reasons of other domains are not ours to read."""

DETAILS_KEY = "grpc-status-details-bin"

LONGEST_TEXT = 1024
"""Bytes of an error's text on the wire: it travels twice, in headers that peers limit to 8 KiB."""

STATUSES: Mapping[type[DirectorError], grpc.StatusCode] = MappingProxyType(
    {
        errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.Forbidden: grpc.StatusCode.PERMISSION_DENIED,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
        errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Conflict: grpc.StatusCode.ABORTED,
        errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
        errors.Corrupt: grpc.StatusCode.DATA_LOSS,
        errors.SchemaOutdated: grpc.StatusCode.FAILED_PRECONDITION,
        DirectorError: grpc.StatusCode.INTERNAL,
    }
)
"""The code of each class; a class that is not listed has that of the nearest one above it."""

CLASSES: Mapping[grpc.StatusCode, type[DirectorError]] = MappingProxyType(
    {code: kind for kind, code in STATUSES.items() if kind is not errors.SchemaOutdated}
    | {grpc.StatusCode.CANCELLED: Unavailable, grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable}
)
"""What to raise for a status that does not name its class: from a proxy, from gRPC itself, from a newer director."""


def code_of(kind: type[DirectorError]) -> grpc.StatusCode:
    """Return the status code of an error's class."""
    return next(STATUSES[each] for each in kind.__mro__ if each in STATUSES)


def to_rich_status(error: DirectorError) -> grpc.Status:
    """Turn an error into the status that ends a call.

    A servicer ends its call with `await context.abort(status.code, status.details, status.trailing_metadata)`.
    """
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))
    text = _clipped(str(error) or type(error).__name__)
    return rpc_status.to_status(status_pb2.Status(code=code_of(type(error)).value[0], message=text, details=[info]))


def from_rpc_error(error: grpc.RpcError) -> DirectorError:
    """Turn the error of a call, synchronous or asyncio, into the one that the director raised.

    A call that was cut off (UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED) becomes `Unavailable`: repeat it.
    """
    text = error.details() or f"the director answered {error.code().name} without a word"
    kinds = {kind.__name__: kind for kind in _family(DirectorError)}
    for reason in _reasons(error):
        if reason in kinds:
            return kinds[reason](text)
    return CLASSES.get(error.code(), DirectorError)(text)


def _clipped(text: str) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= LONGEST_TEXT:
        return encoded.decode()
    return encoded[: LONGEST_TEXT - 4].decode("utf-8", "ignore") + " …"


def _family(kind: type[DirectorError]) -> Iterator[type[DirectorError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _family(each)


def _reasons(error: grpc.RpcError) -> Iterator[str]:
    """Yield the reasons that our ErrorInfos in a status name; a status that cannot be read has none."""
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())  # pairs, unlike the stubs say
    for key, value in metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            info = error_details_pb2.ErrorInfo()
            try:
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Unpack(info) and info.domain == DOMAIN:
                        yield info.reason
            except DecodeError:
                return
