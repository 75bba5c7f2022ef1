"""The header that names a caller without a certificate, and the interceptors that put it on each call."""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import grpc.aio

from director.errors import InvalidArgument

CLIENT_ID = "client_id"

Answer = TypeVar("Answer")


def sync_interceptors(client_id: str) -> tuple["_Sync", ...]:
    """Return what puts the client id on each call of a channel for threads.

    Raises:
        InvalidArgument: the client id cannot travel in a header.
    """
    return (_Sync(_checked(client_id)),)


def aio_interceptors(client_id: str) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Return what puts the client id on each call of a channel for asyncio.

    Raises:
        InvalidArgument: the client id cannot travel in a header.
    """
    checked = _checked(client_id)
    return _AioUnaryUnary(checked), _AioUnaryStream(checked), _AioStreamStream(checked)


def _checked(client_id: str) -> str:
    if not client_id.isascii() or not client_id.isprintable() or client_id != client_id.strip():
        raise InvalidArgument(f"the client id {client_id!r} must be printable ASCII without spaces around it")
    return client_id


@dataclass(slots=True)
class _Details(grpc.ClientCallDetails):
    """The details of a call, for both kinds of channels."""

    method: Any
    timeout: Any
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any = None


class _Header:
    """Adds the client id to the details of a call."""

    def __init__(self, client_id: str) -> None:
        self._entry = (CLIENT_ID, client_id)

    def on(self, details: Any) -> Any:
        """Return the details with the header among their metadata."""
        return _Details(
            details.method,
            details.timeout,
            self.among(details.metadata or ()),
            details.credentials,
            details.wait_for_ready,
            getattr(details, "compression", None),
        )

    def among(self, metadata: Iterable[Any]) -> Any:
        """Return the metadata with the header in front."""
        return (self._entry, *metadata)


class _AioHeader(_Header):
    def among(self, metadata: Iterable[Any]) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*super().among(metadata))


class _Sync(
    _Header, grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    def intercept_unary_unary(self, proceed: Callable[..., Answer], details: Any, request: Any) -> Answer:
        return proceed(self.on(details), request)

    def intercept_unary_stream(self, proceed: Callable[..., Answer], details: Any, request: Any) -> Answer:
        return proceed(self.on(details), request)

    def intercept_stream_stream(self, proceed: Callable[..., Answer], details: Any, requests: Iterator[Any]) -> Answer:
        return proceed(self.on(details), requests)


# A class each: a channel for asyncio asks an interceptor for one kind of call only.


class _AioUnaryUnary(_AioHeader, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, proceed: Callable[..., Awaitable[Answer]], details: Any, request: Any
    ) -> Answer:
        return await proceed(self.on(details), request)


class _AioUnaryStream(_AioHeader, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, proceed: Callable[..., Awaitable[Answer]], details: Any, request: Any
    ) -> Answer:
        return await proceed(self.on(details), request)


class _AioStreamStream(_AioHeader, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        proceed: Callable[..., Awaitable[Answer]],
        details: Any,
        requests: AsyncIterable[Any] | Iterable[Any],
    ) -> Answer:
        return await proceed(self.on(details), requests)
