"""The federation's directors, any of which will do, and the patience to ask them again."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

import grpc

from director.effects import Entropy, SystemEntropy, monotonic
from director.errors import DirectorError, Later, PreconditionFailed, Unavailable
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.v1.federation_pb2_grpc import FederationServiceStub
from director.wire.channels import TlsFiles, addresses_of, sync_channel
from director.wire.statuses import from_rpc_error

CALL_SECONDS = 30
"""How long one call may take before it counts as unanswered."""

FIRST_JITTER = 0.2
LONGEST_JITTER = 5.0
"""Seconds by which a pause exceeds what the director asks for, at most; doubled each time."""


class PagedRequest(Protocol):
    """A request for one page of a list."""

    page_token: str


class Paged(Protocol):
    """One page of a list."""

    @property
    def next_page_token(self) -> str:
        """Where the next page begins; empty on the last page."""
        ...


Request = TypeVar("Request")
Request_contra = TypeVar("Request_contra", contravariant=True)
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
ListRequest = TypeVar("ListRequest", bound=PagedRequest)
ListAnswer = TypeVar("ListAnswer", bound=Paged)
Part = TypeVar("Part")
Part_co = TypeVar("Part_co", covariant=True)


class Unary(Protocol[Request_contra, Answer_co]):
    """A method with one request and one answer."""

    def __call__(self, request: Request_contra, timeout: float) -> Answer_co:
        """Call it."""
        ...


class Stream(Protocol[Part_co]):
    """A call that is answered in parts."""

    def __iter__(self) -> Iterator[Part_co]:
        """Yield the parts."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The services of one director that researchers and operators call."""

    experiments: ExperimentServiceStub
    federation: FederationServiceStub


def reraise(refusal: DirectorError) -> NoReturn:
    """Raise the refusal."""
    raise refusal


class Patience:
    """How long to go on trying, and the pauses in between; progress renews it.

    A pause is as long as the director asked for, and a random part of a growing limit, so that callers who were refused
    together do not come back together.

    Units: seconds.
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, seconds: float, *, directors: int, entropy: Entropy) -> None:
        """Wait for so long in all; each of so many directors is tried before there is a pause."""
        self._seconds = seconds
        self._directors = directors
        self._entropy = entropy
        self._until: float | None = None
        self._pauses = 0
        self._others = directors - 1  # to be tried before the next pause
        self._delay = 0.0

    def renew(self) -> None:
        """Stop the clock; the next failure starts it again."""
        self._until = None
        self._pauses = 0
        self._begin_turn()

    def start(self) -> None:
        """Start the clock, unless it runs already."""
        if self._until is None:
            self._until = monotonic() + self._seconds

    def allows(self, refusal: Later) -> bool:
        """Whether to try again after a refusal; the pause that is due has passed then.

        A pause that patience does not cover is not begun: a call that comes too early would be refused again.
        """
        self.start()
        self._delay = max(self._delay, refusal.retry_after.total_seconds())
        if isinstance(refusal, Unavailable) and self._others:
            self._others -= 1
            return True
        length = self._delay + self._entropy.fraction() * min(LONGEST_JITTER, FIRST_JITTER * 2 ** min(self._pauses, 10))
        if self._until is not None and monotonic() + length > self._until:
            return False
        time.sleep(length)
        self._pauses += 1
        self._begin_turn()
        return True

    def _begin_turn(self) -> None:
        self._others = self._directors - 1
        self._delay = 0.0


class Directors:
    """Channels to all directors of a federation. The one that answered last is asked first; on silence, the next."""

    def __init__(
        self, address: str, *, tls: TlsFiles | None, client_id: str, patience: float, entropy: Entropy | None = None
    ) -> None:
        """Connect when first asked.

        Units: patience in seconds.

        Raises:
            InvalidArgument: a bad address or client id, or a TLS file that cannot be read.
        """
        self._addresses = addresses_of(address)
        self._channels = [sync_channel(each, tls, client_id) for each in self._addresses]
        self._services = [Services(ExperimentServiceStub(each), FederationServiceStub(each)) for each in self._channels]
        self._turn = 0
        self._closed = False
        self._patience = patience
        self._entropy = entropy or SystemEntropy()

    def close(self) -> None:
        """End all calls."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def call(
        self,
        method: Callable[[Services], Unary[Request, Answer]],
        request: Request,
        *,
        settle: Callable[[DirectorError], Answer] = reraise,
    ) -> Answer:
        """Return the answer of the first director that gives one.

        A repeat may be refused because an earlier call was carried out and only its answer was lost. `settle` is given
        that refusal, and returns the answer that was lost or raises.

        Raises:
            Unavailable: none answered, for as long as patience lasts.
            Overloaded, DiskFull: the director asked to come back later, for as long as patience lasts.
            PreconditionFailed: the channels are closed.
            DirectorError: the director's refusal.
        """
        patience, lost = self._new_patience(), False
        patience.start()
        while True:
            try:
                return method(self._services_in_turn())(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
            if not isinstance(refusal, Later):
                return settle(refusal) if lost else reraise(refusal)
            self._await_turn(refusal, patience)
            lost |= isinstance(refusal, Unavailable)

    def pages(
        self, method: Callable[[Services], Unary[ListRequest, ListAnswer]], request: ListRequest
    ) -> Iterator[ListAnswer]:
        """Yield the pages of a list, each asked for when it is needed; the request moves along.

        Raises:
            DirectorError: as of `call`.
        """
        while True:
            page = self.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def stream(
        self,
        open_stream: Callable[[Services], Stream[Part]],
        *,
        is_progress: Callable[[Part], bool] | None = None,
    ) -> Iterator[Part]:
        """Yield the parts of an answer over as many streams as it takes.

        A stream that breaks off is opened again: `open_stream` knows what has arrived. Parts for which `is_progress` is
        true renew patience. Without `is_progress` each part does, and so does a stream that was open for longer than a
        call may take: a director was there, and had nothing new to say.

        Raises:
            Unavailable: no director went on, for as long as patience lasts.
            Overloaded, DiskFull: the director asked to come back later, for as long as patience lasts.
            PreconditionFailed: the channels are closed.
            DirectorError: the director's refusal.
        """
        patience = self._new_patience()
        while True:
            opened_at = monotonic()
            parts = open_stream(self._services_in_turn())
            try:
                for part in parts:
                    if is_progress is None or is_progress(part):
                        patience.renew()
                    yield part
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
            else:
                return
            finally:
                parts.cancel()
            if is_progress is None and monotonic() - opened_at > CALL_SECONDS:
                patience.renew()
            self._await_turn(refusal, patience)

    def _services_in_turn(self) -> Services:
        """Return the services of the director to ask."""
        if self._closed:  # a call on a closed channel crashes the process, as of gRPC 1.85
            raise PreconditionFailed("the connection to the federation is closed; open it again")
        return self._services[self._turn]

    def _new_patience(self) -> Patience:
        return Patience(self._patience, directors=len(self._services), entropy=self._entropy)

    def _await_turn(self, refusal: DirectorError, patience: Patience) -> None:
        """Return when the call may be repeated, at the next director if this one is away; else raise the refusal."""
        if not isinstance(refusal, Later):
            raise refusal
        if patience.allows(refusal):
            if isinstance(refusal, Unavailable):
                self._turn = (self._turn + 1) % len(self._services)
            return
        if isinstance(refusal, Unavailable):
            raise Unavailable(f"no answer from {', '.join(self._addresses)} within {self._patience:g} s: {refusal}")
        raise refusal
