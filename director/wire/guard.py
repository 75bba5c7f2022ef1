"""Around every call: who makes it, and the one place where an error becomes a status."""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

from director.domain.names import is_uid
from director.errors import DirectorError, Forbidden, InvalidArgument, Unauthenticated
from director.wire.headers import CLIENT_ID
from director.wire.statuses import to_rich_status

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


def caller_of(context: Context) -> str:
    """Return who makes a call: the certificate's common name, or without TLS what the `client_id` header says.

    Raises:
        Unauthenticated: neither is there.
    """
    auth = context.auth_context()
    if b"ssl" in auth.get("transport_security_type", ()):
        name = next(iter(auth.get("x509_common_name", ())), b"").decode()
        if not name:
            raise Unauthenticated("the certificate has no common name; ask the operator for another one")
        return name
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_ID and value:
            return value.decode() if isinstance(value, bytes) else value
    raise Unauthenticated("without TLS a call says who makes it in the header `client_id`")


def require_self(context: Context, envoy: str) -> str:
    """Return the envoy's name if the caller is that envoy.

    Raises:
        Forbidden: it is somebody else.
    """
    caller = caller_of(context)
    if caller != envoy:
        raise Forbidden(f"caller {caller!r} cannot act as envoy {envoy!r}")
    return envoy


def uid_of(uid: str) -> str:
    """Return an experiment's uid, or refuse what is not written like one.

    Raises:
        InvalidArgument: it is something else, such as a name.
    """
    if not is_uid(uid):
        raise InvalidArgument(
            f"experiment_uid is {uid[:80]!r}; it should be 32 hexadecimal digits, as GetExperiment returns"
        )
    return uid.lower()


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call that raised with the status of its error.

    What is not ours is logged, and answered without details.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the method's handler."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # no such method
        method = handler_call_details.method
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            wrapped: Any = streaming(inner, method)
        else:
            inner = handler.stream_unary or handler.unary_unary
            make = (
                grpc.stream_unary_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            wrapped = single(inner, method)
        made: Any = make
        return made(  # type: ignore[no-any-return]
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def single(inner: Any, method: str) -> Any:
    """Wrap a method that answers once."""

    async def call(request: Any, context: Context) -> Any:
        try:
            return await inner(request, context)
        except Exception as error:
            await end(context, error, method)

    return call


def streaming(inner: Any, method: str) -> Any:
    """Wrap a method that answers with a stream."""

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            answers = inner(request, context)
            if inspect.isawaitable(answers):  # it writes them itself, as gRPC's health service does
                await answers
                return
            async for answer in answers:
                yield answer
        except Exception as error:
            await end(context, error, method)

    return call


async def end(context: Context, error: Exception, method: str) -> None:
    """End a call with the status of an error."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, DirectorError):
        status = to_rich_status(error)
        await context.abort(status.code, status.details or "", status.trailing_metadata or ())
    log.error("%s failed", method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "internal error")
