"""Metrics and events as endless lists: read from a cursor on, complete, in order, without repeats."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from director.domain.history import FEDERATION, Cursor, Event, Metric, events_of, metrics_of
from director.domain.types import ExperimentId
from director.errors import Conflict, Forbidden, InvalidArgument, Unavailable
from director.services.runtime import Caller, Runtime
from director.services.wakeups import Wakeup
from director.store import events, experiments, federations, metrics
from director.store.engine.database import Transaction
from director.store.engine.topics import Topic
from director.store.tables import FEDERATION_STREAM

PAGE = 500


class Placed(Protocol):
    """Something with a place in a stream."""

    @property
    def cursor(self) -> Cursor:
        """Its place."""
        ...


Row = TypeVar("Row", bound=Placed)
Read = Callable[[Transaction, int], Awaitable[Sequence[Row]]]
"""Reads the rows behind a number."""
Ended = Callable[[Transaction], Awaitable[bool]]
"""Says whether no row will follow any more."""


class Streams:
    """Reads the streams of experiments and of the federation."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime

    async def metrics(
        self, which: str, caller: Caller, *, after: Cursor | None = None, follow: bool = False
    ) -> AsyncIterator[Sequence[Metric]]:
        """Yield the metrics of an experiment (its uid or name), some at a time.

        With `follow` it goes on until the experiment has ended, and yields nothing () while nothing is new.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
            InvalidArgument: the cursor is of another stream.
            Conflict: the cursor is of another epoch.
            Unavailable: this director is shutting down.
        """
        experiment_id, uid, epoch = await self._find(which, caller)
        name = metrics_of(uid)

        async def read(tx: Transaction, seq: int) -> Sequence[Metric]:
            return await metrics.after(tx, experiment_id, seq, name=name, epoch=epoch, limit=PAGE)

        start = start_of(after, name, epoch)
        async for rows in self._of_experiment(experiment_id, read, start=start, follow=follow):
            yield rows

    async def events(
        self, which: str, caller: Caller, *, after: Cursor | None = None, follow: bool = False
    ) -> AsyncIterator[Sequence[Event]]:
        """Yield the events of an experiment, as `metrics` does."""
        experiment_id, uid, epoch = await self._find(which, caller)
        name = events_of(uid)

        async def read(tx: Transaction, seq: int) -> Sequence[Event]:
            return await events.after(tx, experiment_id, seq, name=name, epoch=epoch, limit=PAGE)

        start = start_of(after, name, epoch)
        async for rows in self._of_experiment(experiment_id, read, start=start, follow=follow):
            yield rows

    async def federation_events(
        self, caller: Caller, *, after: Cursor | None = None, follow: bool = False
    ) -> AsyncIterator[Sequence[Event]]:
        """Yield the federation's own events; with `follow` for ever, and nothing () while nothing is new.

        Raises:
            Forbidden: the caller is not an operator.
            InvalidArgument, Conflict, Unavailable: as of `metrics`.
        """
        if not caller.operator:
            raise Forbidden("only operators read the federation's events")
        async with self._runtime.db.read() as tx:
            epoch = await federations.epoch(tx)

        async def read(tx: Transaction, seq: int) -> Sequence[Event]:
            return await events.after(tx, FEDERATION_STREAM, seq, name=FEDERATION, epoch=epoch, limit=PAGE)

        async def ended(_tx: Transaction) -> bool:
            return False

        with self._runtime.wakeups.listen(Topic.federation()) as wakeup:
            start = start_of(after, FEDERATION, epoch)
            async for rows in self._stream(read, ended, wakeup, start=start, follow=follow):
                yield rows

    async def _find(self, which: str, caller: Caller) -> tuple[ExperimentId, str, str]:
        """Return an experiment's id and uid, and the federation's epoch."""
        async with self._runtime.db.read() as tx:
            found = await experiments.find(tx, which, caller=caller.scope)
            return found.id, found.uid, await federations.epoch(tx)

    async def _of_experiment(
        self, experiment_id: ExperimentId, read: Read[Row], *, start: int, follow: bool
    ) -> AsyncIterator[Sequence[Row]]:
        async def ended(tx: Transaction) -> bool:
            return (await experiments.get(tx, experiment_id)).state.terminal

        with self._runtime.wakeups.listen(Topic.experiment(experiment_id)) as wakeup:
            async for rows in self._stream(read, ended, wakeup, start=start, follow=follow):
                yield rows

    async def _stream(
        self, read: Read[Row], ended: Ended, wakeup: Wakeup, *, start: int, follow: bool
    ) -> AsyncIterator[Sequence[Row]]:
        while True:
            wakeup.clear()
            # State and rows in one snapshot: the last rows are committed together with the terminal state.
            async with self._runtime.db.read() as tx:
                over = await ended(tx)
                rows = await read(tx, start)
            if rows:
                start = rows[-1].cursor.seq
                yield rows
            if len(rows) == PAGE:
                continue
            if over or not follow:
                return
            if self._runtime.wakeups.closing:  # an end would say that the experiment has ended
                raise Unavailable("this director is shutting down; go on with the stream at another one")
            yield ()
            await wakeup.wait(self._runtime.settings.poll.total_seconds())


def start_of(cursor: Cursor | None, stream: str, epoch: str) -> int:
    """Return the number behind which to read.

    Raises:
        InvalidArgument: the cursor is of another stream, or its number is negative.
        Conflict: it is of another epoch.
    """
    if cursor is None:
        return 0
    if cursor.stream != stream:
        raise InvalidArgument(f"the cursor is of the stream {cursor.stream!r}, this one is {stream!r}")
    if cursor.seq < 0:
        raise InvalidArgument("a cursor is not negative; leave it out to read from the beginning")
    if cursor.epoch != epoch:
        raise Conflict("the database was restored since: the cursor is of another epoch; start without one")
    return cursor.seq
