"""The federation's directors, any of which will do, and the patience to try them all again."""

import time
from collections.abc import Callable, Iterator
from typing import NoReturn, Protocol, TypeVar

import grpc

from director.effects import Entropy, SystemEntropy, monotonic
from director.errors import DirectorError, Unavailable
from director.v1.experiments_pb2_grpc import ExperimentServiceStub
from director.wire.channels import TlsFiles, addresses_of, sync_channel
from director.wire.statuses import from_rpc_error

CALL_SECONDS = 30
"""How long one call may take before it counts as unanswered."""

SHORTEST_PAUSE = 0.1
LONGEST_PAUSE = 5.0

Answer = TypeVar("Answer")
Part = TypeVar("Part")
Part_co = TypeVar("Part_co", covariant=True)


class Stream(Protocol[Part_co]):
    """A call that is answered in parts."""

    def __iter__(self) -> Iterator[Part_co]:
        """Yield the parts."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


def reraise(refusal: DirectorError) -> NoReturn:
    """Settle nothing."""
    raise refusal


class Patience:
    """How long to go on trying, and the pauses in between; progress renews it.

    Units: seconds.
    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 (full jitter).
    """

    def __init__(self, seconds: float, *, directors: int, entropy: Entropy) -> None:
        """Begin now; each of so many directors is tried before there is a pause."""
        self._seconds = seconds
        self._directors = directors
        self._entropy = entropy
        self.renew()

    def renew(self) -> None:
        """Begin anew."""
        self._until = monotonic() + self._seconds
        self._failures = 0

    def allows(self) -> bool:
        """Whether to try again, after a failure; the pause that is due has passed then."""
        self._failures += 1
        rounds, others = divmod(self._failures, self._directors)
        if others:
            return True
        length = self._entropy.fraction() * min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(rounds, 10))
        if monotonic() + length > self._until:
            return False
        time.sleep(length)
        return True


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
        self._stubs = [ExperimentServiceStub(each) for each in self._channels]
        self._turn = 0
        self._patience = patience
        self._entropy = entropy or SystemEntropy()

    def close(self) -> None:
        """End all calls."""
        for channel in self._channels:
            channel.close()

    def call(
        self,
        rpc: Callable[[ExperimentServiceStub], Answer],
        *,
        settle: Callable[[DirectorError], Answer] = reraise,
    ) -> Answer:
        """Return the answer of the first director that gives one.

        A repeat may be refused because the call before it was carried out and only its answer lost: `settle` is given
        that refusal, and returns the answer that was lost or raises.

        Raises:
            Unavailable: none answered, for as long as patience lasts.
            DirectorError: the director's refusal.
        """
        patience, repeated = self._new_patience(), False
        while True:
            try:
                return rpc(self._stubs[self._turn])
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
            if not isinstance(refusal, Unavailable):
                return settle(refusal) if repeated else reraise(refusal)
            self._turn_from(refusal, patience)
            repeated = True

    def stream(
        self,
        open_stream: Callable[[ExperimentServiceStub], Stream[Part]],
        *,
        is_progress: Callable[[Part], bool] = lambda _: True,
    ) -> Iterator[Part]:
        """Yield the parts of an answer over as many streams as it takes.

        A stream that breaks off is opened anew, where it broke off: `open_stream` knows what has arrived. Each part
        renews patience, unless `is_progress` says that it does not.

        Raises:
            Unavailable: no director went on, for as long as patience lasts.
            DirectorError: the director's refusal.
        """
        patience = self._new_patience()
        while True:
            parts = open_stream(self._stubs[self._turn])
            try:
                for part in parts:
                    if is_progress(part):
                        patience.renew()
                    yield part
            except grpc.RpcError as error:
                refusal = from_rpc_error(error)
            else:
                return
            finally:
                parts.cancel()
            self._turn_from(refusal, patience)

    def _new_patience(self) -> Patience:
        return Patience(self._patience, directors=len(self._stubs), entropy=self._entropy)

    def _turn_from(self, refusal: DirectorError, patience: Patience) -> None:
        """Turn to the next director, or raise what cannot be mended by that."""
        if not isinstance(refusal, Unavailable):
            raise refusal
        if not patience.allows():
            raise Unavailable(f"no answer from {', '.join(self._addresses)} within {self._patience:g} s: {refusal}")
        self._turn = (self._turn + 1) % len(self._stubs)
