"""The execution loop: claim experiments without an owner, drive them step by step, release them.

The rows say what this process owns. Its tasks are reconciled with them at each poll. So a claim whose answer was lost
is found, a task whose experiment was taken away ends, and a restart is the ordinary path.
"""

import asyncio
import logging
from collections.abc import Callable

from director.domain import aggregation
from director.domain.history import EventKind, Occurrence
from director.domain.types import DirectorId, ExperimentId
from director.errors import Later, LeaseLost
from director.services.execution_steps import Steps
from director.services.periodic_jobs import Ticker
from director.services.reviewing import ReviewCallback
from director.services.runtime import Runtime
from director.services.supervision import Succeeded, Trouble
from director.store import events, leases
from director.store.engine.topics import Topic
from director.store.leases import Fence

log = logging.getLogger(__name__)

ROOM = 64
"""Experiments that one process drives at once."""
SKIPPED_SECONDS = 0.05
COURTESY_SECONDS = 0.01
"""Delay before claiming, so that the hand-out gets the row lock first; the loser tries again after 50 ms."""
TRIES = 5
"""How often a step may fail in a row before its experiment does."""


class Execution:
    """Drives the experiments that this director owns."""

    def __init__(
        self,
        runtime: Runtime,
        ticker: Ticker,
        *,
        director_id: Callable[[], DirectorId | None],
        review: ReviewCallback | None = None,
    ) -> None:
        """Prepare; `director_id` is None while this process holds no lease."""
        self._runtime = runtime
        self._ticker = ticker
        self._director_id = director_id
        self._review = review
        self._loops: dict[Fence, asyncio.Task[None]] = {}
        self._draining = False

    async def run(self, succeeded: Succeeded) -> None:
        """Claim and drive until cancelled. An error leaves the experiments' own loops running."""
        poll = self._runtime.settings.poll.total_seconds()
        try:
            with self._runtime.wakeups.listen(Topic.claim()) as wakeup:
                woken = True
                while True:
                    wakeup.clear()
                    skipped = await self.reconcile(woken=woken)
                    succeeded()
                    woken = await wakeup.wait(SKIPPED_SECONDS if skipped else poll)
                    if woken:
                        await asyncio.sleep(COURTESY_SECONDS)
        except asyncio.CancelledError:
            await self._stop(list(self._loops))
            raise

    async def reconcile(self, *, woken: bool = True) -> bool:
        """Claim what is free, and make the tasks match the rows; True if there was more that somebody held locked."""
        me = self._director_id()
        if me is None:
            await self._stop(list(self._loops))
            return False
        missed = False
        if not self._draining and (room := ROOM - len(self._loops)) > 0:
            missed = await self._claim(me, room, woken=woken)
        async with self._runtime.db.read() as tx:
            owned = set(await leases.owned(tx, me))
        await self._stop([fence for fence in self._loops if fence not in owned])
        if not self._draining:
            for fence in owned - self._loops.keys():
                self._start(fence)
        return missed

    async def _claim(self, me: DirectorId, room: int, *, woken: bool) -> bool:
        rules = {each.name: each.version for each in aggregation.RULES.values()}
        reviews = self._review is not None
        if not woken:
            async with self._runtime.db.read() as tx:
                if not await leases.anything_to_claim(tx, rules=rules, reviews=reviews):
                    return False
        async with self._runtime.db.write("claim") as tx:
            claimed, missed = await leases.claim(tx, me, rules=rules, reviews=reviews, limit=room)
        for fence in claimed:
            self._start(fence)
        return missed

    def _start(self, fence: Fence) -> None:
        task = asyncio.create_task(self._drive(fence), name=f"experiment {fence.experiment_id}")
        self._loops[fence] = task
        task.add_done_callback(lambda _task: self._loops.pop(fence, None))

    async def _stop(self, fences: list[Fence]) -> None:
        tasks = [self._loops[fence] for fence in fences if fence in self._loops]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _drive(self, fence: Fence) -> None:
        steps = Steps(self._runtime, self._ticker, fence, review=self._review)
        poll = self._runtime.settings.poll.total_seconds()
        trouble = Trouble(f"experiment {fence.experiment_id}", self._runtime.entropy)
        failures = 0
        with self._runtime.wakeups.listen(Topic.experiment(fence.experiment_id)) as wakeup:
            while True:
                wakeup.clear()
                try:
                    pause = await steps.next()
                except LeaseLost as error:
                    log.info("stopped: %s", error)
                    return
                except Later as error:
                    await asyncio.sleep(trouble.failed(error))
                    continue
                except Exception as error:
                    failures += 1
                    rest = trouble.failed(error)
                    if failures >= TRIES and await self._give_up(steps, error, trouble):
                        log.error("experiment %s: given up after %s failed steps", fence.experiment_id, failures)
                        return
                    await asyncio.sleep(rest)
                    continue
                failures = 0
                trouble.succeeded()
                if pause is None:
                    return
                if pause > 0:
                    await wakeup.wait(min(pause, poll))

    async def _give_up(self, steps: Steps, error: Exception, trouble: Trouble) -> bool:
        try:
            await steps.give_up(f"the director could not go on: {type(error).__name__}: {error}")
        except LeaseLost:
            pass
        except Exception as failure:
            trouble.failed(failure)
            return False
        return True

    async def drain(self) -> None:
        """Claim nothing more and let everything go, so that another director takes it at once."""
        self._draining = True
        await self._stop(list(self._loops))
        me = self._director_id()
        if me is None:
            return
        async with self._runtime.db.read() as tx:
            owned = await leases.owned(tx, me)
        for fence in owned:
            async with self._runtime.db.write("release") as tx:
                if await leases.release(tx, fence):
                    happened = Occurrence(EventKind.EXPERIMENT_RELEASED, details={"director": fence.director_id})
                    await events.append(tx, ExperimentId(fence.experiment_id), happened)
