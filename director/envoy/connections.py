"""Calls that go on until they are answered: the way to whichever director is up.

Several addresses are replicas of one federation; any of them will do. A call that a director could not answer is
repeated, at the next address and after a pause, without end: an envoy outlives every outage.
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
from director.errors import DirectorError, MessageTooLarge, ResourceExhausted, Unavailable
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
        client_id: Who calls, where no certificate says so.
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
        """Prepare the way; nothing is opened yet."""
        self._addresses = addresses
        self._tls = tls
        self._client_id = client_id
        self._entropy = entropy or SystemEntropy()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._preferred = 0
        self._is_down = False

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channels, and with them all calls."""
        for channel in self._channels.values():
            await channel.close()

    async def repeat(self, operation: Callable[[Stubs], Awaitable[Answer]]) -> Answer:
        """Return what an operation on some director returns, repeating it until a director answers.

        Raises:
            DirectorError: what the director answered, unless repeating the same call may help.
        """
        waits = pauses(self._entropy)
        while True:
            at = self._preferred
            try:
                answer = await operation(self._stubs(self._addresses[at]))
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
                if not may_pass(error):
                    raise error from raised
            except Unavailable as raised:
                error = raised
            else:
                self._heard_from(at)
                return answer
            self._turn_away(at, error)
            await asyncio.sleep(next(waits))

    def _heard_from(self, at: int) -> None:
        if self._is_down:
            log.info("the director at %s answers again", self._addresses[at])
            self._is_down = False

    def _turn_away(self, at: int, error: DirectorError) -> None:
        """Prefer the next address, unless another call did so already; complain once an outage."""
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
    if isinstance(error, ResourceExhausted):
        return not isinstance(error, MessageTooLarge)
    return isinstance(error, Unavailable) or type(error) is DirectorError


def pauses(entropy: Entropy) -> Iterator[float]:
    """Yield how long to wait before the next try, in seconds: exponential, with full jitter."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield longest * entropy.fraction()
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


async def until_answered(poll: Callable[[], Awaitable[Answer | None]], entropy: Entropy | None = None) -> Answer:
    """Repeat a long poll until it brings something; those that come back empty at once are spaced out."""
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
