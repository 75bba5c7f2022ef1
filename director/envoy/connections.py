"""Calls that are repeated until a director answers them.

Several addresses are replicas of one federation; any of them will do. When a director cannot answer, the call is
repeated at the next address after a pause, without end: an envoy outlives every outage.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from director.effects import Entropy, SystemEntropy, monotonic
from director.errors import DirectorError, Later
from director.v1.envoys_pb2_grpc import EnvoyServiceStub
from director.v1.rounds_pb2_grpc import RoundServiceStub
from director.wire.channels import TlsFiles, aio_channel
from director.wire.statuses import from_rpc_error

if TYPE_CHECKING:
    from director.v1.envoys_pb2_grpc import EnvoyServiceAsyncStub
    from director.v1.rounds_pb2_grpc import RoundServiceAsyncStub

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
AT_ONCE_SECONDS = 1.0

Answer = TypeVar("Answer")

log = logging.getLogger("director.envoy")


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services of one director."""

    envoys: "EnvoyServiceAsyncStub"
    rounds: "RoundServiceAsyncStub"


class Connection:
    """The channels to a federation's directors, one an address, opened when first needed.

    Args:
        addresses: host:port each; the first is tried first.
        tls: Certificates, or None for plain text.
        client_id: The caller's name, for calls without a certificate.
        entropy: Draws the pauses.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        tls: TlsFiles | None,
        client_id: str | None,
        entropy: Entropy | None = None,
    ) -> None:
        """Keep the addresses; no channel is opened yet."""
        self._addresses = addresses
        self._tls = tls
        self._client_id = client_id
        self._entropy = entropy or SystemEntropy()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._preferred = 0
        self._is_down = False

    async def __aenter__(self) -> Self:
        """Return the connection; channels are opened by the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channels; this ends their calls."""
        for channel in self._channels.values():
            await channel.close()

    async def repeat(self, operation: Callable[[Stubs], Awaitable[Answer]]) -> Answer:
        """Repeat an operation until a director answers it; return the answer.

        The pause before a repeat is the delay that the error asks for, and a random part on top that grows.

        Raises:
            DirectorError: the director's answer, unless the same call may succeed later.
        """
        waits = pauses(self._entropy)
        while True:
            at = self._preferred
            try:
                answer = await self._try(operation, at)
            except DirectorError as error:
                if not may_pass(error):
                    raise
                self._turn_away(at, error)
                asked = error.retry_after.total_seconds() if isinstance(error, Later) else 0.0
                await asyncio.sleep(asked + next(waits))
            else:
                self._heard_from(at)
                return answer

    async def once(self, operation: Callable[[Stubs], Awaitable[Answer]]) -> Answer:
        """Try an operation a single time, at the director that answered last.

        Raises:
            DirectorError: the director's answer; Unavailable if it gave none.
        """
        return await self._try(operation, self._preferred)

    async def _try(self, operation: Callable[[Stubs], Awaitable[Answer]], at: int) -> Answer:
        try:
            return await operation(self._stubs(self._addresses[at]))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _heard_from(self, at: int) -> None:
        if self._is_down:
            log.info("the director at %s answers again", self._addresses[at])
            self._is_down = False

    def _turn_away(self, at: int, error: DirectorError) -> None:
        """Prefer the next address, unless another call did so already; warn once in each outage."""
        log.log(
            logging.DEBUG if self._is_down else logging.WARNING,
            "the director at %s does not answer, trying again until one does: %s",
            self._addresses[at],
            error,
        )
        self._is_down = True
        if self._preferred == at:
            self._preferred = (at + 1) % len(self._addresses)

    def _stubs(self, address: str) -> Stubs:
        if address not in self._channels:
            self._channels[address] = aio_channel(address, self._tls, self._client_id)
        channel = self._channels[address]
        return Stubs(EnvoyServiceStub(channel), RoundServiceStub(channel))


def may_pass(error: DirectorError) -> bool:
    """Whether the same call may succeed later: the director is away, at a limit, or has a defect."""
    return isinstance(error, Later) or type(error) is DirectorError


def pauses(entropy: Entropy) -> Iterator[float]:
    """Yield the random part of each pause: exponential, with full jitter.

    Units: seconds.
    """
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield longest * entropy.fraction()
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


async def until_answered(poll: Callable[[], Awaitable[Answer | None]], entropy: Entropy | None = None) -> Answer:
    """Repeat a long poll until it brings something; pause between polls that come back empty at once."""
    waits = pauses(entropy or SystemEntropy())
    while True:
        asked_at = monotonic()
        answer = await poll()
        if answer is not None:
            return answer
        if monotonic() - asked_at < AT_ONCE_SECONDS:
            await asyncio.sleep(next(waits))
        else:
            waits = pauses(entropy or SystemEntropy())
