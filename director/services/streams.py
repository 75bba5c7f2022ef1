"""Metrics and events as endless lists: read from a cursor on, complete, in order, without repeats."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from director.domain.types import ExperimentId
from director.errors import Conflict, InvalidArgument, Unavailable
from director.services.runtime import Caller, Runtime
from director.store import events, experiments, federations, metrics
from director.store.engine.database import Transaction

PAGE = 500


class Numbered(Protocol):
    """Something with a place in a stream."""

    @property
    def seq(self) -> int:
        """Its place, from 1."""
        ...


Row = TypeVar("Row", bound=Numbered)
Page = Callable[[Transaction, ExperimentId, int], Awaitable[Sequence[Row]]]


class Streams:
    """Reads the streams of experiments."""

    def __init__(self, runtime: Runtime) -> None:
        """Serve."""
        self._runtime = runtime

    def metrics(
        self, name: str, caller: Caller, *, after: int = 0, epoch: str = "", follow: bool = False
    ) -> AsyncIterator[tuple[metrics.Recorded | None, str]]:
        """Yield (metric, epoch); with `follow` until the experiment has ended, and (None, epoch) while nothing is new.

        Raises:
            ExperimentNotFound: it is absent, or not the caller's.
            Conflict: the cursor is of another epoch.
            Unavailable: this director is shutting down.
        """

        async def page(tx: Transaction, experiment_id: ExperimentId, seq: int) -> Sequence[metrics.Recorded]:
            return await metrics.after(tx, experiment_id, seq, limit=PAGE)

        return self._stream(name, caller, page, after=after, epoch=epoch, follow=follow)

    def events(
        self, name: str, caller: Caller, *, after: int = 0, epoch: str = "", follow: bool = False
    ) -> AsyncIterator[tuple[events.Recorded | None, str]]:
        """Yield (event, epoch), as `metrics` does."""

        async def page(tx: Transaction, experiment_id: ExperimentId, seq: int) -> Sequence[events.Recorded]:
            return await events.after(tx, experiment_id, seq, limit=PAGE)

        return self._stream(name, caller, page, after=after, epoch=epoch, follow=follow)

    async def _stream(
        self, name: str, caller: Caller, page: Page[Row], *, after: int, epoch: str, follow: bool
    ) -> AsyncIterator[tuple[Row | None, str]]:
        if after < 0:
            raise InvalidArgument("a cursor is not negative; 0 reads from the beginning")
        async with self._runtime.db.read() as tx:
            experiment_id = (await experiments.find(tx, name, caller=caller.scope)).id
            current = await federations.epoch(tx)
        if epoch and epoch != current:
            raise Conflict("the database was restored since: the cursor is of another epoch; start from 0")
        wakeups = self._runtime.wakeups
        with wakeups.listen(("experiment", experiment_id)) as wakeup:
            while True:
                wakeup.clear()
                # State and rows in one snapshot: the last rows are committed together with the terminal state.
                async with self._runtime.db.read() as tx:
                    ended = (await experiments.get(tx, experiment_id)).state.terminal
                    rows = await page(tx, experiment_id, after)
                for row in rows:
                    after = row.seq
                    yield row, current
                if len(rows) == PAGE:
                    continue
                if ended or not follow:
                    return
                if wakeups.closing:  # an end would say that the experiment has ended
                    raise Unavailable("this director is shutting down; go on with the stream at another one")
                yield None, current
                await wakeup.wait(self._runtime.settings.poll.total_seconds())
