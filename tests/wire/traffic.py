"""What crosses the wire: the size of each message, noted where the director reads and writes them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from director.wire.guard import ErrorInterceptor, Handler


@dataclass(frozen=True)
class Crossed:
    """A message: its method, the member of its oneof, if it has one, and its bytes."""

    method: str
    part: str
    size: int


class Traffic(ErrorInterceptor):
    """Notes every message, and otherwise does what the director's own interceptor does."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.messages: list[Crossed] = []

    def of(self, method: str, part: str) -> list[int]:
        """Return the sizes of the messages of a method with this part."""
        return [each.size for each in self.messages if (each.method, each.part) == (method, part)]

    @property
    def largest(self) -> int:
        """The size of the largest message."""
        return max(each.size for each in self.messages)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the method's handler."""
        handler: Any = await super().intercept_service(continuation, handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.rpartition("/")[2]

        def read(data: bytes) -> Message:
            message: Message = handler.request_deserializer(data)
            self._note(method, message, len(data))
            return message

        def write(message: Message) -> bytes:
            data: bytes = handler.response_serializer(message)
            self._note(method, message, len(data))
            return data

        return handler._replace(request_deserializer=read, response_serializer=write)  # type: ignore[no-any-return]

    def _note(self, method: str, message: Message, size: int) -> None:
        part = message.WhichOneof("part") if "part" in message.DESCRIPTOR.oneofs_by_name else None
        self.messages.append(Crossed(method, part or "", size))
